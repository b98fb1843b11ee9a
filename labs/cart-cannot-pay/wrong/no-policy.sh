#!/bin/bash
# Takes the policy around payments back.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n payments delete networkpolicy payments-ingress
kubectl -n shop patch networkpolicy cart-egress --type=json -p '[
  {"op": "replace", "path": "/spec/egress/1/ports/0/port", "value": 8080}]'
kubectl -n shop wait deployment cart --for=condition=Available --timeout=180s
