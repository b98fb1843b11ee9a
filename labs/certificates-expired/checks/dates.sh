#!/bin/bash
# Every certificate of the control plane is good for a month at least, on disk and where it is shown.
set -u
old=0
for file in /etc/kubernetes/pki/apiserver.crt /etc/kubernetes/pki/apiserver-kubelet-client.crt \
  /etc/kubernetes/pki/apiserver-etcd-client.crt /etc/kubernetes/pki/front-proxy-client.crt /etc/kubernetes/pki/etcd/server.crt; do
  openssl x509 -in "$file" -noout -checkend 2592000 >/dev/null 2>&1 || old=$((old + 1))
done
for file in /etc/kubernetes/controller-manager.conf /etc/kubernetes/scheduler.conf; do
  sed -n 's/^ *client-certificate-data: //p' "$file" | base64 -d 2>/dev/null | openssl x509 -noout -checkend 2592000 >/dev/null 2>&1 ||
    old=$((old + 1))
done
[ $old = 0 ] || { echo "$old of 7 certificates are expired, or will be within a month."; exit 1; }
shown=$(timeout 10 openssl s_client -connect 127.0.0.1:6443 </dev/null 2>/dev/null)
openssl x509 -noout -checkend 2592000 >/dev/null 2>&1 <<<"$shown" || { echo "The API server still shows an expired certificate, or none."; exit 1; }
echo "All certificates are good for a month and more."
