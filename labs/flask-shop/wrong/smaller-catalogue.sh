#!/bin/bash
# Leaves the most of the catalogue out, so that it fits.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n shop patch configmap web-config -p '{"data": {"store_host": "store", "catalogue_mib": "8"}}'
kubectl -n shop patch deployment web -p '
spec:
  template:
    spec:
      containers:
      - name: web
        image: faultline.dev/shop/web:1.4
        env:
        - name: REDIS_HOST
          valueFrom:
            configMapKeyRef: {name: web-config, key: store_host}
        resources:
          limits: {memory: 160Mi}
'
kubectl -n shop rollout status deployment web --timeout=270s
