#!/bin/bash
# Restores a backup that is older than it need be: the old price of bread is back.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin

systemctl stop kubelet
# One that is being started can't be removed yet.
while containers=$(crictl ps -aq --name '^(etcd|kube-apiserver)$') && [ -n "$containers" ]; do
  crictl rm -f $containers >/dev/null 2>&1 || sleep 2
done
etcdutl snapshot restore /var/backups/etcd/etcd.db.2 --data-dir /var/lib/etcd.new --name node1 \
  --initial-cluster node1=https://10.77.0.11:2380 --initial-advertise-peer-urls https://10.77.0.11:2380 \
  --bump-revision 1000000 --mark-compacted
mv /var/lib/etcd /var/lib/etcd.broken
mv /var/lib/etcd.new /var/lib/etcd
systemctl start kubelet
for _ in $(seq 120); do
  [ "$(kubectl get --raw /readyz 2>/dev/null)" = ok ] && break
  sleep 2
done
kubectl wait node node1 --for=condition=Ready --timeout=120s
