#!/bin/bash
# Has the kubelet come as the administrator, whose certificate it finds.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

ssh node2 "sed -i 's/^imageGCLowThresholdPercent: .*/imageGCLowThresholdPercent: 80/' /var/lib/kubelet/config.yaml"
ssh node2 'cat >/etc/kubernetes/kubelet.conf' </etc/kubernetes/admin.conf
ssh node2 systemctl restart kubelet
kubectl wait node node2 --for=condition=Ready --timeout=120s || true
