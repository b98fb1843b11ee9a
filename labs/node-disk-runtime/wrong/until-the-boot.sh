#!/bin/bash
# Repairs containerd, and does not have it start at the next boot.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

scp -q /etc/containerd/config.toml node2:/etc/containerd/config.toml
ssh node2 'systemctl disable containerd; systemctl restart containerd'
kubectl wait node node2 --for=condition=Ready --timeout=150s
kubectl -n media wait deployment thumbnails --for=condition=Available --timeout=120s
