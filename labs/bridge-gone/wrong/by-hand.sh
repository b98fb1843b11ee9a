#!/bin/bash
# Makes the bridge with ip alone: it is gone after the next boot.
set -euo pipefail

ip link add br-apps type bridge
ip address add 10.44.0.1/24 dev br-apps
ip link set br-apps up
systemctl restart app-net@web app-net@db
for _ in $(seq 60); do
  curl -s -m 5 http://10.44.0.10:8080/ | grep -q '3 products' && exit 0
  sleep 0.5
done
exit 1
