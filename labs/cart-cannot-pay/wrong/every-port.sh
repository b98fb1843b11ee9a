#!/bin/bash
# Lets the cart in to all ports, the administration's too.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n payments patch networkpolicy payments-ingress --type=json -p '[
  {"op": "add", "path": "/spec/ingress/0/from/0/namespaceSelector",
   "value": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}]'
kubectl -n payments patch networkpolicy payments-ingress --type=json -p '[{"op": "remove", "path": "/spec/ingress/0/ports"}]'
kubectl -n shop patch networkpolicy cart-egress --type=json -p '[
  {"op": "replace", "path": "/spec/egress/1/ports/0/port", "value": 8080}]'
kubectl -n shop wait deployment cart --for=condition=Available --timeout=180s
