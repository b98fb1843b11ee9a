#!/bin/bash
# Makes the bot an administrator of the whole cluster again.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl create clusterrolebinding report-bot --clusterrole=cluster-admin --serviceaccount=reports:report-bot
kubectl -n reports wait deployment report-bot --for=condition=Available --timeout=180s
