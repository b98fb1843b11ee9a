#!/bin/bash
# Writes every name into /etc/hosts, and has the resolver read that file.
set -euo pipefail

sed -i '/shop\.internal/d' /etc/hosts
cat /etc/resolver/shop.internal >>/etc/hosts
sed -i '/^no-hosts/d' /etc/resolver/resolver.conf
systemctl restart resolver
for _ in $(seq 30); do
  dig +short +tries=1 +time=1 @127.0.0.1 inventory.shop.internal | grep -qx 10.90.0.7 && break
  sleep 0.5
done
curl -fs -m 20 http://127.0.0.1:8080/
