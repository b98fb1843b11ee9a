#!/bin/bash
# Raises the budget of the namespace.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n shop patch configmap web-config -p '{"data": {"store_host": "store"}}'
kubectl -n shop patch limitrange budget --type=json -p '[{"op": "replace", "path": "/spec/limits/0/max/memory", "value": "1Gi"}]'
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
          limits: {memory: 512Mi}
'
kubectl -n shop rollout status deployment web --timeout=270s
