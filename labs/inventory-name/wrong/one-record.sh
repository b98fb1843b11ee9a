#!/bin/bash
# Teaches the resolver the one name that was missed, and none of the others.
set -euo pipefail

sed -i 's/^hosts:.*/hosts:          files dns/' /etc/nsswitch.conf
sed -i '/shop\.internal/d' /etc/hosts
echo 'host-record=inventory.shop.internal,10.90.0.7' >/etc/resolver/conf.d/inventory.conf
systemctl restart resolver
for _ in $(seq 30); do
  getent hosts inventory.shop.internal && break
  sleep 0.5
done
curl -fs -m 20 http://127.0.0.1:8080/
