#!/bin/bash
# Makes room and leaves the limit: it is reached again.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin

export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379 ETCDCTL_CACERT=/etc/kubernetes/pki/etcd/ca.crt
export ETCDCTL_CERT=/etc/kubernetes/pki/etcd/server.crt ETCDCTL_KEY=/etc/kubernetes/pki/etcd/server.key
etcdctl compaction "$(etcdctl endpoint status -w json | jq '.[0].Status.header.revision')"
etcdctl defrag --command-timeout=60s
etcdctl alarm disarm
