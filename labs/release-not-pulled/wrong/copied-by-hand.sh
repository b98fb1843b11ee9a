#!/bin/bash
# Loads the image onto the node by hand, and has it never pulled.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin

ctr --namespace k8s.io images pull --plain-http registry.lab:5000/tea/web:2.{{minor}} >/dev/null
kubectl -n tea patch deployment web -p '
spec:
  template:
    spec:
      containers:
      - name: web
        image: registry.lab:5000/tea/web:2.{{minor}}
        imagePullPolicy: Never
'
kubectl -n tea patch ingress web --type=json \
  -p '[{"op": "replace", "path": "/spec/rules/0/http/paths/0/backend/service/port/name", "value": "http"}]'
kubectl -n tea rollout status deployment web --timeout=240s
