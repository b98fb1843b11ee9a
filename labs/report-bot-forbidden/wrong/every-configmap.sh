#!/bin/bash
# Lets the bot get, list and patch every ConfigMap of its namespace.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n shop patch role deployment-reader --type=json \
  -p '[{"op": "replace", "path": "/rules/0/apiGroups", "value": ["apps"]}]'
kubectl -n shop patch rolebinding report-bot-reads-deployments --type=json \
  -p '[{"op": "replace", "path": "/subjects/0/namespace", "value": "reports"}]'
kubectl -n reports patch role report-writer --type=json \
  -p '[{"op": "replace", "path": "/rules/0/verbs", "value": ["get", "list", "patch"]}]'
kubectl -n reports wait deployment report-bot --for=condition=Available --timeout=180s
