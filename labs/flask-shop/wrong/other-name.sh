#!/bin/bash
# Gives the image on the node the name of one that was never delivered.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n shop patch configmap web-config -p '{"data": {"store_host": "store"}}'
ctr --namespace k8s.io images tag faultline.dev/shop/web:1.4 faultline.dev/shop/web:1.4.0
kubectl -n shop patch deployment web -p '
spec:
  template:
    spec:
      containers:
      - name: web
        image: faultline.dev/shop/web:1.4.0
        env:
        - name: REDIS_HOST
          valueFrom:
            configMapKeyRef: {name: web-config, key: store_host}
        resources:
          limits: {memory: 160Mi}
'
kubectl -n shop rollout status deployment web --timeout=270s
