#!/bin/bash
set -euo pipefail
kubectl --kubeconfig /etc/kubernetes/admin.conf taint node node3 dedicated=month-end:NoSchedule
