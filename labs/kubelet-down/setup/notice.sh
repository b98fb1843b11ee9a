#!/bin/bash
# What the node controller would say after two minutes, said now; it leaves it at that.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf
now=$(date -u +%FT%TZ)
kubectl patch node node2 --subresource=status -p "{\"status\": {\"conditions\": [
  {\"type\": \"Ready\", \"status\": \"Unknown\", \"reason\": \"NodeStatusUnknown\", \"message\": \"Kubelet stopped posting node status.\", \"lastTransitionTime\": \"$now\"}]}}"
