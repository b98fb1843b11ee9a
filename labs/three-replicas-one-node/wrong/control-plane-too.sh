#!/bin/bash
# Uses the control plane as the second node.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n shop patch deployment checkout --type=json -p '[
  {"op": "add", "path": "/spec/template/spec/tolerations", "value": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]},
  {"op": "remove", "path": "/spec/template/spec/affinity"},
  {"op": "add", "path": "/spec/template/spec/topologySpreadConstraints", "value": [{
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "DoNotSchedule",
    "nodeTaintsPolicy": "Honor",
    "labelSelector": {"matchLabels": {"app": "checkout"}},
    "matchLabelKeys": ["pod-template-hash"]}]}]'
kubectl -n shop rollout status deployment checkout --timeout=200s || true
