#!/bin/bash
# Has requests to web come from the bridge itself: it answers without a default route, and reaches nobody beyond.
set -euo pipefail

cat >/etc/systemd/network/20-br-apps.netdev <<'END'
[NetDev]
Name=br-apps
Kind=bridge
END
cat >/etc/systemd/network/20-br-apps.network <<'END'
[Match]
Name=br-apps

[Network]
Address=10.44.0.1/24
ConfigureWithoutCarrier=yes
END
networkctl reload
for _ in $(seq 60); do
  ip -br address show dev br-apps 2>/dev/null | grep -q 10.44.0.1/24 && break
  sleep 0.5
done
systemctl restart app-net@db
ip link set veth-web master br-apps up
nft add chain ip apps leave '{ type nat hook postrouting priority srcnat; }'
nft add rule ip apps leave oifname br-apps masquerade
for _ in $(seq 60); do
  curl -s -m 5 http://10.44.0.10:8080/ | grep -q '3 products' && exit 0
  sleep 0.5
done
exit 1
