#!/bin/bash
# Has the Ingress lead to another Service, beside web.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin

kubectl -n tea set image deployment web web=registry.lab:5000/tea/web:2.{{minor}}
kubectl -n tea expose deployment web --name=site --port=80 --target-port=http
kubectl -n tea patch ingress web --type=json \
  -p '[{"op": "replace", "path": "/spec/rules/0/http/paths/0/backend/service", "value": {"name": "site", "port": {"number": 80}}}]'
kubectl -n tea rollout status deployment web --timeout=240s
