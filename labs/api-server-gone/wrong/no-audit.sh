#!/bin/bash
# Takes the change back: the API server is there, and the audit log is not.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin

manifest=/etc/kubernetes/manifests/kube-apiserver.yaml
sed -e '/--audit-/d' -e '/mountPath: \/var\/log\/kubernetes/,+1d' "$manifest" |
  python3 -c 'import sys; print(sys.stdin.read().replace("""  - hostPath:
      path: /var/log/kubernetes
      type: DirectoryOrCreate
    name: audit-log
""", ""), end="")' >/root/kube-apiserver.yaml
mv /root/kube-apiserver.yaml "$manifest"
for _ in $(seq 130); do
  [ "$(kubectl get --raw /readyz 2>/dev/null)" = ok ] && break
  sleep 2
done
kubectl wait node node1 --for=condition=Ready --timeout=60s
