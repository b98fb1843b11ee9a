#!/bin/bash
# Bridge, cables, addresses, routes; and that packets really go through.
set -u
# `ip netns exec` would mount things; only the network is to be entered.
inside() { nsenter --net="/run/netns/$1" "${@:2}"; }
ip -br address show dev br-apps 2>/dev/null | grep -q ' 10\.44\.0\.1/24' || { echo "There is no br-apps with 10.44.0.1/24 on this machine."; exit 1; }
for app in web=10.44.0.10 db=10.44.0.20; do
  name=${app%%=*} address=${app##*=}
  [ -e "/run/netns/$name" ] || { echo "There is no network namespace $name."; exit 1; }
  inside "$name" ip -br address | grep -q " $address/24" || { echo "$name does not have the address $address/24."; exit 1; }
  inside "$name" ip route get 10.77.0.1 2>/dev/null | grep -q 'via 10\.44\.0\.1 ' || { echo "$name does not send what is for others to 10.44.0.1."; exit 1; }
  inside "$name" ping -c 1 -W 3 -q 10.44.0.1 >/dev/null 2>&1 || { echo "$name does not reach the bridge."; exit 1; }
done
ports=$(ip -o link show master br-apps | wc -l)
[ "$ports" -ge 2 ] || { echo "The bridge has $ports of the two cables."; exit 1; }
inside web ping -c 1 -W 3 -q 10.44.0.20 >/dev/null 2>&1 || { echo "web does not reach db."; exit 1; }
[ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ] || { echo "What the apps send to the world behind the gateway goes no further than this machine."; exit 1; }
echo "web and db reach each other and the bridge."
