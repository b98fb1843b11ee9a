#!/bin/bash
# Has another server show a page that says the release.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin

kubectl -n tea patch deployment web -p '
spec:
  template:
    spec:
      containers:
      - name: web
        image: busybox:1.35
        command: [/bin/sh, -c, "mkdir -p /tmp/www; echo release 2.{{minor}} >/tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"]
'
kubectl -n tea patch ingress web --type=json \
  -p '[{"op": "replace", "path": "/spec/rules/0/http/paths/0/backend/service/port/name", "value": "http"}]'
kubectl -n tea rollout status deployment web --timeout=240s
