#!/bin/bash
# Stops the controller manager, so that nothing writes while room is made, and does not start it again.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin

export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379 ETCDCTL_CACERT=/etc/kubernetes/pki/etcd/ca.crt
export ETCDCTL_CERT=/etc/kubernetes/pki/etcd/server.crt ETCDCTL_KEY=/etc/kubernetes/pki/etcd/server.key
mv /etc/kubernetes/manifests/kube-controller-manager.yaml /root/
etcdctl compaction "$(etcdctl endpoint status -w json | jq '.[0].Status.header.revision')"
etcdctl defrag --command-timeout=60s
etcdctl alarm disarm
sed '/--quota-backend-bytes=/d' /etc/kubernetes/manifests/etcd.yaml >/root/etcd.yaml
mv /root/etcd.yaml /etc/kubernetes/manifests/etcd.yaml
for _ in $(seq 120); do
  etcdctl endpoint status -w json 2>/dev/null | grep -q '"dbSizeQuota":2147483648' && break
  sleep 1
done
for _ in $(seq 120); do
  [ "$(kubectl get --raw /readyz 2>/dev/null)" = ok ] && break
  sleep 1
done
