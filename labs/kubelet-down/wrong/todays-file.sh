#!/bin/bash
# Names the certificate file of today: the next one is not found again.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

ssh node2 "sed -i 's/^imageGCLowThresholdPercent: .*/imageGCLowThresholdPercent: 80/' /var/lib/kubelet/config.yaml
  sed -i \"s#/var/lib/kubelet/pki/kubelet-client-20.*\.pem#\$(readlink -f /var/lib/kubelet/pki/kubelet-client-current.pem)#\" /etc/kubernetes/kubelet.conf
  systemctl restart kubelet"
kubectl wait node node2 --for=condition=Ready --timeout=120s
kubectl -n warehouse wait deployment labels --for=condition=Available --timeout=150s
