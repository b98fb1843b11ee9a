#!/bin/bash
# Says that checkout needs less than it does, so that it fits beside month-end.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl taint node node3 dedicated-
kubectl -n shop patch deployment checkout --type=json -p '[
  {"op": "replace", "path": "/spec/template/spec/containers/0/resources/requests/cpu", "value": "10m"},
  {"op": "remove", "path": "/spec/template/spec/affinity"},
  {"op": "add", "path": "/spec/template/spec/topologySpreadConstraints", "value": [{
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "DoNotSchedule",
    "nodeTaintsPolicy": "Honor",
    "labelSelector": {"matchLabels": {"app": "checkout"}},
    "matchLabelKeys": ["pod-template-hash"]}]}]'
kubectl -n shop rollout status deployment checkout --timeout=200s
