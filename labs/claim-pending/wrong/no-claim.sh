#!/bin/bash
# Keeps the entries in the Pod, which takes them along when it goes.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n guestbook patch deployment store --type=json \
  -p '[{"op": "replace", "path": "/spec/template/spec/volumes", "value": [{"name": "entries", "emptyDir": {}}]}]'
kubectl -n guestbook rollout status deployment store --timeout=270s
