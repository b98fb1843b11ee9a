#!/bin/bash
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

sed -i 's/^nameserver 127.0.0.1/nameserver 10.77.0.11/' /etc/resolv.conf
kubectl -n kube-system patch service kube-dns --type=json \
  -p '[{"op": "replace", "path": "/spec/selector", "value": {"k8s-app": "kube-dns"}}]'
kubectl -n kube-system delete pod -l k8s-app=kube-dns --now
kubectl -n kube-system rollout status deployment coredns --timeout=240s
kubectl -n warehouse wait deployment sync --for=condition=Available --timeout=60s
