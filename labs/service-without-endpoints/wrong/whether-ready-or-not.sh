#!/bin/bash
# Has the Service send requests to Pods that are not ready.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n shop patch service prices --type=json \
  -p '[{"op": "replace", "path": "/spec/selector", "value": {"app.kubernetes.io/name": "prices"}},
       {"op": "add", "path": "/spec/publishNotReadyAddresses", "value": true}]'
sleep 5
