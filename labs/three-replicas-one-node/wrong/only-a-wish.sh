#!/bin/bash
# Asks the scheduler to keep the Pods apart where it can, and obliges it to nothing.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl taint node node3 dedicated-
kubectl -n batch scale deployment month-end --replicas=0
kubectl -n batch wait pod -l app=month-end --for=delete --timeout=90s
kubectl -n shop patch deployment checkout --type=json -p '[
  {"op": "replace", "path": "/spec/template/spec/affinity", "value": {"podAntiAffinity": {
    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": {
      "topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "checkout"}}}}]}}}]'
kubectl -n shop rollout status deployment checkout --timeout=200s
