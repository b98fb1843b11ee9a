#!/bin/bash
# Moves all three from the one node to the other.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl taint node node3 dedicated-
kubectl -n batch scale deployment month-end --replicas=0
kubectl -n batch wait pod -l app=month-end --for=delete --timeout=90s
kubectl -n shop patch deployment checkout --type=json -p '[
  {"op": "remove", "path": "/spec/template/spec/affinity"},
  {"op": "add", "path": "/spec/template/spec/nodeSelector", "value": {"kubernetes.io/hostname": "node3"}}]'
kubectl -n shop rollout status deployment checkout --timeout=200s
