#!/bin/bash
# etcd has no alarm, and a small file.
set -u
status=$(timeout 40 /usr/local/bin/etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/kubernetes/pki/etcd/ca.crt \
  --cert /etc/kubernetes/pki/etcd/server.crt --key /etc/kubernetes/pki/etcd/server.key endpoint status -w json 2>/dev/null)
[ -n "$status" ] || { echo "etcd does not answer."; exit 1; }
case "$status" in *NOSPACE*) echo "etcd has the alarm NOSPACE."; exit 1 ;; esac
size=$(jq -r '.[0].Status.dbSize' <<<"$status") quota=$(jq -r '.[0].Status.dbSizeQuota' <<<"$status")
[ "$size" -lt $((10 << 20)) ] || { echo "etcd's file has $((size >> 10)) KiB."; exit 1; }
echo "etcd's file has $((size >> 10)) KiB, and may have $((quota >> 20)) MiB."
