#!/bin/bash
# Makes do with two Pods, one on each node.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl taint node node3 dedicated-
kubectl -n batch scale deployment month-end --replicas=0
kubectl -n batch wait pod -l app=month-end --for=delete --timeout=90s
kubectl -n shop patch deployment checkout --type=json -p '[
  {"op": "replace", "path": "/spec/replicas", "value": 2},
  {"op": "remove", "path": "/spec/template/spec/affinity"},
  {"op": "add", "path": "/spec/template/spec/topologySpreadConstraints", "value": [{
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "DoNotSchedule",
    "nodeTaintsPolicy": "Honor",
    "labelSelector": {"matchLabels": {"app": "checkout"}},
    "matchLabelKeys": ["pod-template-hash"]}]}]'
kubectl -n shop rollout status deployment checkout --timeout=200s
