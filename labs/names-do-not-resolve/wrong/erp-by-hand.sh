#!/bin/bash
# Writes one of the office's names into the Corefile, and asks a server that can't be reached for the others.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n kube-system patch service kube-dns --type=json \
  -p '[{"op": "replace", "path": "/spec/selector", "value": {"k8s-app": "kube-dns"}}]'
kubectl -n kube-system get configmap coredns -o yaml |
  sed -e 's#^\( *\)forward \. /etc/resolv.conf#\1hosts {\n\1  10.60.1.20 erp.office.example\n\1  fallthrough\n\1}\n\1forward . 192.0.2.53#' |
  kubectl replace -f -
kubectl -n kube-system delete pod -l k8s-app=kube-dns --now
kubectl -n kube-system rollout status deployment coredns --timeout=240s
kubectl -n warehouse wait deployment sync --for=condition=Available --timeout=60s
