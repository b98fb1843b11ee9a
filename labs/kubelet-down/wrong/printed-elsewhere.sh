#!/bin/bash
# Moves the label printer's Pod to a node without a label printer.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n warehouse patch deployment labels \
  -p '{"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node3"}}}}}'
kubectl -n warehouse rollout status deployment labels --timeout=150s
