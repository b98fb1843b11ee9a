#!/bin/bash
# Deletes month-end, which accounting wants to start again.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl taint node node3 dedicated-
kubectl -n batch delete deployment month-end --cascade=foreground
kubectl -n shop patch deployment checkout --type=json -p '[
  {"op": "remove", "path": "/spec/template/spec/affinity"},
  {"op": "add", "path": "/spec/template/spec/topologySpreadConstraints", "value": [{
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "DoNotSchedule",
    "nodeTaintsPolicy": "Honor",
    "labelSelector": {"matchLabels": {"app": "checkout"}},
    "matchLabelKeys": ["pod-template-hash"]}]}]'
kubectl -n shop rollout status deployment checkout --timeout=200s
