#!/bin/bash
set -euo pipefail

sed -i 's/^hosts:.*/hosts:          files dns/' /etc/nsswitch.conf
sed -i '/shop\.internal/d' /etc/hosts
mv /etc/resolver/conf.d/shop-zone.conf.disabled /etc/resolver/conf.d/shop-zone.conf
systemctl restart resolver
for _ in $(seq 30); do
  getent hosts inventory.shop.internal && break
  sleep 0.5
done
curl -fs -m 20 http://127.0.0.1:8080/
