#!/bin/bash
# Lets the cart out to every address.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n payments patch networkpolicy payments-ingress --type=json -p '[
  {"op": "add", "path": "/spec/ingress/0/from/0/namespaceSelector",
   "value": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}]'
kubectl -n shop patch networkpolicy cart-egress --type=json -p '[
  {"op": "replace", "path": "/spec/egress/1", "value":
   {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"protocol": "TCP", "port": 8080}]}}]'
kubectl -n shop wait deployment cart --for=condition=Available --timeout=180s
