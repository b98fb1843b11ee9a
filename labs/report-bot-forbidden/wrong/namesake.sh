#!/bin/bash
# Adds the bot to the binding, and leaves an account there that anybody in shop can make.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n shop patch role deployment-reader --type=json \
  -p '[{"op": "replace", "path": "/rules/0/apiGroups", "value": ["apps"]}]'
kubectl -n shop patch rolebinding report-bot-reads-deployments --type=json \
  -p '[{"op": "add", "path": "/subjects/-", "value":
         {"kind": "ServiceAccount", "name": "report-bot", "namespace": "reports"}}]'
kubectl -n reports patch role report-writer --type=json \
  -p '[{"op": "replace", "path": "/rules/0/verbs", "value": ["patch"]},
       {"op": "add", "path": "/rules/0/resourceNames", "value": ["daily-report"]}]'
kubectl -n reports wait deployment report-bot --for=condition=Available --timeout=180s
