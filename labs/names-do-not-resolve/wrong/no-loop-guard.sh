#!/bin/bash
# Has CoreDNS not notice any more that it asks itself.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n kube-system patch service kube-dns --type=json \
  -p '[{"op": "replace", "path": "/spec/selector", "value": {"k8s-app": "kube-dns"}}]'
kubectl -n kube-system get configmap coredns -o yaml | sed '/^ *loop$/d' | kubectl replace -f -
kubectl -n kube-system delete pod -l k8s-app=kube-dns --now
kubectl -n kube-system rollout status deployment coredns --timeout=240s
