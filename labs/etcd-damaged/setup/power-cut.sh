#!/bin/bash
# Two nights' backups of etcd, a third that is cut off; then etcd's log is damaged where it was last written, and its containers end
# as with the machine.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin
backup() {
  etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/kubernetes/pki/etcd/ca.crt \
    --cert /etc/kubernetes/pki/etcd/server.crt --key /etc/kubernetes/pki/etcd/server.key \
    --command-timeout 60s snapshot save "/var/backups/etcd/etcd.db$1" >/dev/null 2>&1
}
prices() { # edition, price of bread
  kubectl apply -f - >/dev/null <<END
apiVersion: v1
kind: ConfigMap
metadata: {name: price-list, namespace: shop}
data: {edition: "$1", bread: "$2", butter: "2.90", salt: "0.80"}
END
}

mkdir -p -m 0700 /var/backups/etcd
kubectl create namespace shop >/dev/null
kubectl -n shop create secret generic till-key --from-literal=key=9170-north-star-44 >/dev/null
# A pod that is made later needs it; it is made a moment after the namespace.
until kubectl -n shop get serviceaccount default >/dev/null 2>&1; do sleep 1; done
prices 46 2.90
backup .2
prices 47 3.20
backup .1
prices 48 3.20
backup ''
truncate -s $(($(stat -c %s /var/backups/etcd/etcd.db) * 6 / 10 / 512 * 512)) /var/backups/etcd/etcd.db
touch -d "-1 day" /var/backups/etcd/etcd.db.1
touch -d "-2 days" /var/backups/etcd/etcd.db.2

systemctl stop kubelet
for name in kube-apiserver etcd; do
  container=$(crictl ps -q --name "^$name\$")
  crictl stop --timeout 20 "$container" >/dev/null
done
python3 - <<'END'
import glob, os
last = max(glob.glob("/var/lib/etcd/member/wal/*.wal"))
with open(last, "r+b") as log:
    at = log.read().rindex(b"price-list")
    log.seek(at)
    log.write(os.urandom(32))
END
systemctl start kubelet

# An etcd that has ended has said why. Its log is read to its end, or a writer that is not done would count as failed.
says_why() {
  local ended
  mapfile -t ended < <(crictl ps -a -q --state exited --name '^etcd$')
  [ ${#ended[@]} -gt 0 ] && crictl logs "${ended[0]}" 2>&1 | grep 'crc mismatch' >/dev/null
}
until says_why; do sleep 2; done
! timeout 30 kubectl get --raw /readyz >/dev/null 2>&1
