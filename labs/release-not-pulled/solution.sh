#!/bin/bash
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n tea set image deployment web web=registry.lab:5000/tea/web:2.{{minor}}
kubectl -n tea patch ingress web --type=json \
  -p '[{"op": "replace", "path": "/spec/rules/0/http/paths/0/backend/service/port/name", "value": "http"}]'
kubectl -n tea rollout status deployment web --timeout=240s
