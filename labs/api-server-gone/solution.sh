#!/bin/bash
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

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
sed -i 's/Metdata/Metadata/' /etc/kubernetes/audit/policy.yaml
mv /root/kube-apiserver.yaml "$manifest"

for _ in $(seq 130); do
  [ "$(kubectl get --raw /readyz 2>/dev/null)" = ok ] && break
  sleep 2
done
kubectl wait node node1 --for=condition=Ready --timeout=60s
