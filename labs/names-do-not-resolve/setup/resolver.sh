#!/bin/bash
# The office's name server on this machine; the machine asks it at 127.0.0.1 since Monday, which a pod can't. CoreDNS was
# restarted on Tuesday night, and a colleague turned the Service's selector.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

mkdir -p /etc/office-dns
cat >/etc/office-dns/office-dns.conf <<'CONF'
# The office's name server. It knows office.example and nothing else: there is no way out of this network.
no-resolv
no-hosts
listen-address=127.0.0.1,10.77.0.11
bind-interfaces
cache-size=200
log-facility=-
local=/office.example/
host-record=erp.office.example,10.60.1.20
host-record=mail.office.example,10.60.1.21
host-record=printer.office.example,10.60.1.99
CONF
cat >/etc/systemd/system/office-dns.service <<'UNIT'
[Unit]
Description=The office's name server
After=network.target

[Service]
ExecStart=/usr/sbin/dnsmasq --keep-in-foreground --conf-file=/etc/office-dns/office-dns.conf --pid-file
Restart=on-failure

[Install]
WantedBy=multi-user.target
UNIT
ln -sf /etc/systemd/system/office-dns.service /etc/systemd/system/multi-user.target.wants/office-dns.service
systemctl start office-dns
printf 'search office.example\nnameserver 127.0.0.1\noptions timeout:1 attempts:1\n' >/etc/resolv.conf
for _ in $(seq 30); do
  [ "$(dig +short +tries=1 +time=2 @10.77.0.11 erp.office.example)" = 10.60.1.20 ] && break
  sleep 1
done
[ "$(dig +short +tries=1 +time=2 erp.office.example)" = 10.60.1.20 ]

kubectl -n kube-system delete pod -l k8s-app=kube-dns --now --wait=false
kubectl -n kube-system patch service kube-dns --type=json \
  -p '[{"op": "replace", "path": "/spec/selector", "value": {"k8s-app": "coredns"}}]'
