#!/bin/bash
# Replaces the policy by one that writes everything down.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin

printf '%s\n' 'apiVersion: audit.k8s.io/v1' 'kind: Policy' 'rules:' '- level: Metadata' >/etc/kubernetes/audit/policy.yaml
manifest=/etc/kubernetes/manifests/kube-apiserver.yaml
sed -e 's/^       name: audit-log$/      name: audit-log/' \
  -e 's/^    volumeMounts:$/&\
    - mountPath: \/etc\/kubernetes\/audit\
      name: audit-policy\
      readOnly: true/' \
  -e 's/^  volumes:$/&\
  - hostPath:\
      path: \/etc\/kubernetes\/audit\
      type: Directory\
    name: audit-policy/' "$manifest" >/root/kube-apiserver.yaml
mv /root/kube-apiserver.yaml "$manifest"
for _ in $(seq 130); do
  [ "$(kubectl get --raw /readyz 2>/dev/null)" = ok ] && break
  sleep 2
done
kubectl wait node node1 --for=condition=Ready --timeout=60s
