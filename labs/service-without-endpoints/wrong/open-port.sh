#!/bin/bash
# Asks whether the port is open, not for a page.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n shop patch service prices --type=json \
  -p '[{"op": "replace", "path": "/spec/selector", "value": {"app.kubernetes.io/name": "prices"}}]'
kubectl -n shop patch deployment prices --type=json \
  -p '[{"op": "replace", "path": "/spec/template/spec/containers/0/readinessProbe", "value": {"tcpSocket": {"port": "http"}}}]'
kubectl -n shop rollout status deployment prices --timeout=240s
