#!/bin/bash
# A year passes: the certificates that nobody renewed are replaced by the same ones, issued a year ago and valid until three days ago.
# Controller manager and scheduler have been restarted since.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin
pki=/etc/kubernetes/pki
work=$(mktemp -d /run/XXXXXXXX)
trap 'rm -rf "$work"' EXIT

: >"$work/index"
cat >"$work/conf" <<END
[ca]
default_ca = one
[one]
database = $work/index
new_certs_dir = $work
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
x509_extensions = none
[none]
[any]
organizationName = optional
commonName = supplied
END
from=$(date -u -d '-368 days' +%y%m%d%H%M%SZ) until=$(date -u -d '-3 days' +%y%m%d%H%M%SZ)

# age CERTIFICATE KEY
age() {
  openssl x509 -x509toreq -copy_extensions copyall -in "$1" -signkey "$2" -out "$work/req" 2>/dev/null
  openssl ca -batch -notext -config "$work/conf" -cert $pki/ca.crt -keyfile $pki/ca.key \
    -startdate "$from" -enddate "$until" -in "$work/req" -out "$work/new" 2>/dev/null
  cat "$work/new" >"$1"
}
age_kubeconfig() {
  sed -n 's/^ *client-certificate-data: //p' "$1" | base64 -d >"$work/crt"
  sed -n 's/^ *client-key-data: //p' "$1" | base64 -d >"$work/key"
  age "$work/crt" "$work/key"
  sed "s#^\( *client-certificate-data: \).*#\1$(base64 -w0 "$work/crt")#" "$1" >"$work/conf.new"
  cat "$work/conf.new" >"$1"
}

# Who acts for the cluster comes with old papers from now on...
age_kubeconfig /etc/kubernetes/controller-manager.conf
age_kubeconfig /etc/kubernetes/scheduler.conf
old=$(crictl ps -q --name '^kube-controller-manager$')
crictl stop --timeout 5 "$old" "$(crictl ps -q --name '^kube-scheduler$')" >/dev/null
for _ in $(seq 60); do
  new=$(crictl ps -a --latest -q --name '^kube-controller-manager$')
  [ -n "$new" ] && [ "$new" != "$old" ] && break
  sleep 1
done
kubectl -n nightly scale deployment closing --replicas=1 >/dev/null

# ...and so does the API server itself, which reads its certificate anew when the file changes.
age $pki/apiserver-kubelet-client.crt $pki/apiserver-kubelet-client.key
age_kubeconfig /etc/kubernetes/admin.conf
age_kubeconfig /etc/kubernetes/super-admin.conf
install -m 600 /etc/kubernetes/admin.conf /root/.kube/config
age $pki/apiserver.crt $pki/apiserver.key
for _ in $(seq 120); do
  case "$(kubectl get --raw /readyz 2>&1 || true)" in *expired*) exit 0 ;; esac
  sleep 1
done
echo "the API server still shows a valid certificate" >&2
exit 1
