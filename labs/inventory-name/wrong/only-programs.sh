#!/bin/bash
# Has programs ask the resolver and leaves its zone away: other machines find no name.
set -euo pipefail

sed -i 's/^hosts:.*/hosts:          files dns/' /etc/nsswitch.conf
sed -i '/shop\.internal/d' /etc/hosts
cp /etc/resolver/shop.internal /etc/resolver/local.hosts
cat >/etc/systemd/system/resolver-local.service <<'UNIT'
[Service]
ExecStart=/usr/sbin/dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --listen-address=127.0.0.2 --bind-interfaces --addn-hosts=/etc/resolver/local.hosts --pid-file

[Install]
WantedBy=multi-user.target
UNIT
systemctl enable --now resolver-local
sed -i 's/^nameserver .*/nameserver 127.0.0.2/' /etc/resolv.conf
for _ in $(seq 30); do
  getent hosts ledger.shop.internal && break
  sleep 0.5
done
curl -fs -m 20 http://127.0.0.1:8080/
