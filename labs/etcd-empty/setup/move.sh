#!/bin/bash
# A backup was made, and one that is not whole; then etcd was started in an empty folder, and the old one was deleted.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/super-admin.conf PATH=$PATH:/usr/local/bin
manifest=/etc/kubernetes/manifests/etcd.yaml
folder=/var/backups/etcd
etcd() {
  etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/kubernetes/pki/etcd/ca.crt \
    --cert /etc/kubernetes/pki/etcd/server.crt --key /etc/kubernetes/pki/etcd/server.key "$@"
}
running() { crictl ps -q --name "^$1\$"; }

if ! grep -q 'path: /srv/etcd$' "$manifest"; then
  mkdir -p -m 700 "$folder"
  etcd snapshot save "$folder/monday.db" --command-timeout=60s >/dev/null
  head -c $(($(stat -c %s "$folder/monday.db") * 3 / 5)) "$folder/monday.db" >"$folder/tuesday.db"
  chmod 600 "$folder"/*.db
  touch -d "$(date -d 'last tuesday - 1 day' +%F) 23:30" "$folder/monday.db"
  touch -d "$(date -d 'last tuesday' +%F) 23:30" "$folder/tuesday.db"
  # Renamed into its place: the kubelet reads every file of that folder, half-written ones too.
  old=$(running etcd)
  sed 's#^      path: /var/lib/etcd$#      path: /srv/etcd#' "$manifest" >/etc/kubernetes/.new
  grep -q 'path: /srv/etcd$' /etc/kubernetes/.new
  chmod 600 /etc/kubernetes/.new
  mv /etc/kubernetes/.new "$manifest"
  for _ in $(seq 120); do
    new=$(running etcd)
    [ -n "$new" ] && [ "$new" != "$old" ] && [ -d /srv/etcd/member ] && break
    sleep 1
  done
fi
until etcd endpoint health >/dev/null 2>&1; do sleep 1; done
[ -d /srv/etcd/member ]
rm -rf /var/lib/etcd

# What the API server remembers is of the old etcd.
if kubectl get namespace ledger >/dev/null 2>&1; then
  crictl stop "$(running kube-apiserver)" >/dev/null
fi
# The fault is visible when the new cluster knows its own namespaces, and no others.
until [ "$(kubectl get --raw /readyz 2>/dev/null)" = ok ] && kubectl get namespace kube-system >/dev/null 2>&1; do sleep 1; done
! kubectl get namespace ledger >/dev/null 2>&1
! kubectl --kubeconfig /etc/kubernetes/admin.conf get namespaces >/dev/null 2>&1
until [ -z "$(running nginx)" ]; do sleep 1; done
