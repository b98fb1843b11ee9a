#!/bin/bash
# Builds two apps in network namespaces behind a bridge, then removes the bridge with its configuration, the
# cable of one app and the default route of the other.
set -euo pipefail

# Without starting programs, each of which takes a tenth of a second on an emulated machine.
put() {
  local text
  mapfile -d '' -t text
  printf '%s' "${text[0]}" >"$1"
}
exec 8<> <(:)
pause() { read -rt 0.3 -u 8 _ || true; }

# Written straight into the files: useradd takes a second on an emulated machine.
add_user() {
  case "$(</etc/passwd)" in *$'\n'"$1:"*) return ;; esac
  echo "$1:x:$2:$2::/nonexistent:/usr/sbin/nologin" >>/etc/passwd
  echo "$1:x:$2:" >>/etc/group
  echo "$1:!:19700::::::" >>/etc/shadow
}
add_user apps 991
# One request over HTTP, without starting a program.
get() {
  exec 3<>"/dev/tcp/$1/$2" || return
  printf 'GET %s HTTP/1.0\r\n\r\n' "$3" >&3
  mapfile -t -u 3 answer
  exec 3>&-
  printf '%s\n' "${answer[@]}"
}
# A new unit needs no daemon-reload, and systemctl enable would do one.
enable() {
  for unit in "$@"; do
    ln -sf "/etc/systemd/system/${unit/@*./@.}" "/etc/systemd/system/multi-user.target.wants/$unit"
  done
}
install -d /opt/apps

put /opt/apps/db <<'PY'
#!/usr/bin/python3
"""db: keeps the catalogue's products."""
import socket

with socket.create_server(("0.0.0.0", 5000)) as server:
    while True:
        client, _ = server.accept()
        with client:
            try:
                client.sendall(b"lamp\nchair\ntable\n")
            except OSError:
                pass
PY
put /opt/apps/web <<'PY'
#!/usr/bin/python3
"""web: the catalogue's page."""
import socket

DB = ("10.44.0.20", 5000)


def page():
    try:
        with socket.create_connection(DB, timeout=4) as db:
            products = b""
            while piece := db.recv(4096):
                products += piece
    except OSError as error:
        return "502 Bad Gateway", f"db at {DB[0]}:{DB[1]}: {error}"
    names = products.decode().split()
    return "200 OK", f"{len(names)} products: {', '.join(names)}"


with socket.create_server(("0.0.0.0", 8080)) as server:
    while True:
        client, _ = server.accept()
        with client:
            client.settimeout(5)
            try:
                client.recv(4096)
                status, text = page()
                client.sendall(
                    f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text) + 1}\r\n"
                    f"Connection: close\r\n\r\n{text}\n".encode()
                )
            except OSError:
                pass
PY
put /opt/apps/app-net <<'SH'
#!/bin/sh
# app-net up|down NAME: the network namespace of an app, and its cable to the bridge br-apps.
set -eu
name=$2
case "$name" in
  web) address=10.44.0.10/24 ;;
  db) address=10.44.0.20/24 ;;
  *) echo "app-net: no such app: $name" >&2; exit 2 ;;
esac
case "$1" in
  up)
    [ -d /sys/class/net/br-apps ] || { echo "app-net: there is no bridge br-apps" >&2; exit 1; }
    ip netns add "$name" 2>/dev/null || true
    ip -n "$name" link set lo up
    ip link add "veth-$name" type veth peer name eth0 netns "$name"
    ip link set "veth-$name" master br-apps up
    ip -n "$name" address add "$address" dev eth0
    ip -n "$name" link set eth0 up
    ip -n "$name" route add default via 10.44.0.1
    ;;
  down)
    ip link del "veth-$name" 2>/dev/null || true
    ip netns del "$name" 2>/dev/null || true
    ;;
esac
SH
chmod 755 /opt/apps/*

put /etc/systemd/system/app-net@.service <<'UNIT'
[Unit]
Description=Network namespace and cable of %i
After=systemd-networkd.service network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/opt/apps/app-net up %i
ExecStop=/opt/apps/app-net down %i

[Install]
WantedBy=multi-user.target
UNIT
for app in web db; do
  put /etc/systemd/system/app-$app.service <<UNIT
[Unit]
Description=The app $app
Requires=app-net@$app.service
After=app-net@$app.service
PartOf=app-net@$app.service

[Service]
User=apps
NetworkNamespacePath=/run/netns/$app
ExecStart=/opt/apps/$app
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target app-net@$app.service
UNIT
done
put /etc/systemd/system/app-rules.service <<'UNIT'
[Unit]
Description=Sends port 8080 on to the catalogue

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /etc/nftables-apps.conf
ExecStart=/usr/sbin/sysctl -q -w net.ipv4.ip_forward=1

[Install]
WantedBy=multi-user.target
UNIT
put /etc/nftables-apps.conf <<'NFT'
table ip apps
flush table ip apps
table ip apps {
  chain arrive {
    type nat hook prerouting priority dstnat
    iifname "eth0" tcp dport 8080 dnat to 10.44.0.10
  }
}
NFT

# As it was yesterday.
modprobe -a bridge veth 2>/dev/null || true
ip link add br-apps type bridge 2>/dev/null || true
ip address replace 10.44.0.1/24 dev br-apps
ip link set br-apps up
enable app-net@web.service app-net@db.service app-web.service app-db.service app-rules.service
systemctl start --no-block app-web app-db app-rules
# A connection into a network that is not there yet hangs for seconds.
for _ in {1..120}; do
  up=0
  for cable in veth-web veth-db; do
    state=
    [ ! -e /sys/class/net/$cable ] || read -r state </sys/class/net/$cable/operstate || true
    [ "$state" != up ] || up=$((up + 1))
  done
  [ $up != 2 ] || break
  pause
done
for _ in {1..120}; do
  said=$(get 10.44.0.10 8080 / 2>/dev/null || true)
  case "$said" in *"3 products"*) break ;; esac
  pause
done
case "$said" in *"3 products"*) ;; *) echo "the apps did not come up: $said" >&2; exit 1 ;; esac

# Ten past two.
ip link del br-apps
ip link set veth-web down
ip link del veth-db
ip -n web route del default
if [ -n "$(ip route list 10.44.0.0/24)" ]; then
  echo "there is still a route to the apps" >&2
  exit 1
fi
