#!/bin/bash
# Makes the thumbnails on a node without the pictures.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n media patch deployment thumbnails \
  -p '{"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node3"}}}}}'
kubectl -n media rollout status deployment thumbnails --timeout=120s
