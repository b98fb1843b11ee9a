#!/bin/bash
# Has the warehouse alone ask the office's name server.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n kube-system patch service kube-dns --type=json \
  -p '[{"op": "replace", "path": "/spec/selector", "value": {"k8s-app": "kube-dns"}}]'
kubectl -n warehouse patch deployment sync -p '{"spec": {"template": {"spec": {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["10.77.0.11"]}}}}}'
kubectl -n warehouse rollout status deployment sync --timeout=30s || true
