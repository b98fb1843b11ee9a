#!/bin/bash
# Has requests sent to a Pod that is never asked whether it can answer.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n shop patch configmap web-config -p '{"data": {"store_host": "store"}}'
kubectl -n shop patch deployment web --type=json -p '[{"op": "remove", "path": "/spec/template/spec/containers/0/readinessProbe"}]'
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
