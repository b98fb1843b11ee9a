#!/bin/bash
# Writes the report by hand, under the bot's name.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n reports patch configmap daily-report --field-manager=report-bot \
  -p '{"data": {"text": "2 deployments: frontend, warehouse"}}'
