#!/bin/bash
# Copies node3's configuration, and with it loses what Friday's change was for.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

ssh node3 cat /var/lib/kubelet/config.yaml | ssh node2 'cat >/var/lib/kubelet/config.yaml'
ssh node2 "sed -i 's#kubelet-client-20.*\.pem#kubelet-client-current.pem#' /etc/kubernetes/kubelet.conf
  systemctl restart kubelet"
kubectl wait node node2 --for=condition=Ready --timeout=120s
kubectl -n warehouse wait deployment labels --for=condition=Available --timeout=150s
