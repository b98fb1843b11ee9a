#!/bin/bash
# Enters what was lost by hand, with a key that no till knows.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin

systemctl stop kubelet
# One that is being started can't be removed yet.
while containers=$(crictl ps -aq --name '^(etcd|kube-apiserver)$') && [ -n "$containers" ]; do
  crictl rm -f $containers >/dev/null 2>&1 || sleep 2
done
mkdir -m 700 /var/lib/etcd.new
mv /var/lib/etcd /var/lib/etcd.broken
mv /var/lib/etcd.new /var/lib/etcd
systemctl start kubelet
for _ in $(seq 120); do
  [ "$(kubectl get --raw /readyz 2>/dev/null)" = ok ] && break
  sleep 2
done
# Who is administrator was in there as well.
export KUBECONFIG=/etc/kubernetes/super-admin.conf
kubectl create namespace shop
kubectl -n shop create configmap price-list --from-literal=edition=48 --from-literal=bread=3.20
kubectl -n shop create secret generic till-key --from-literal=key=0000
