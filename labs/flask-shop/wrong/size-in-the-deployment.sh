#!/bin/bash
# Sets a smaller catalogue beside the configuration, which goes on saying 80 MiB.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n shop patch configmap web-config -p '{"data": {"store_host": "store"}}'
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
        - {name: CATALOGUE_MIB, value: "8", valueFrom: null}
        resources:
          limits: {memory: 160Mi}
'
kubectl -n shop rollout status deployment web --timeout=270s
