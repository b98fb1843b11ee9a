#!/bin/bash
# A hardening run took dns out of nsswitch.conf and moved the resolver's zone aside; a colleague put a stale
# address into /etc/hosts.
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
add_user shop 991
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
install -d /opt/storefront /opt/inventory /etc/resolver/conf.d

put /opt/inventory/inventory <<'PY'
#!/usr/bin/python3
"""inventory: says how much is in stock."""
import socket

with socket.create_server(("10.90.0.7", 9000)) as server:
    while True:
        client, _ = server.accept()
        with client:
            client.settimeout(5)
            try:
                client.recv(4096)
                client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n42 items\n")
            except OSError:
                pass
PY

put /opt/storefront/storefront <<'PY'
#!/usr/bin/python3
"""storefront: the shop's page, with the stock that inventory tells."""
import socket

NAME, PORT = "inventory.shop.internal", 9000


def stock():
    try:
        found = socket.getaddrinfo(NAME, PORT, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        return "502 Bad Gateway", f"{NAME}: {error.strerror}"
    address = found[0][4]
    try:
        with socket.create_connection(address, timeout=4) as inventory:
            inventory.sendall(f"GET / HTTP/1.0\r\nHost: {NAME}\r\n\r\n".encode())
            answer = b""
            while piece := inventory.recv(4096):
                answer += piece
        return "200 OK", "In stock: " + answer.partition(b"\r\n\r\n")[2].decode().strip()
    except OSError as error:
        return "504 Gateway Timeout", f"{NAME} at {address[0]}: {error}"


with socket.create_server(("0.0.0.0", 8080)) as server:
    while True:
        client, _ = server.accept()
        with client:
            client.settimeout(5)
            try:
                client.recv(4096)
                status, text = stock()
                print(f"storefront: {status}: {text}", flush=True)
                client.sendall(
                    f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text) + 1}\r\n"
                    f"Connection: close\r\n\r\n{text}\n".encode()
                )
            except OSError:
                pass
PY
chmod 755 /opt/inventory/inventory /opt/storefront/storefront

put /etc/resolver/resolver.conf <<'CONF'
# The resolver of this machine. It knows shop.internal and nothing else: there is no way out of this network.
no-resolv
no-hosts
listen-address=127.0.0.1,10.77.0.11
bind-interfaces
cache-size=200
log-facility=-
conf-dir=/etc/resolver/conf.d/,*.conf
CONF
put /etc/resolver/conf.d/limits.conf <<'CONF'
dns-forward-max=50
CONF
put /etc/resolver/conf.d/shop-zone.conf.disabled <<'CONF'
# The zone of the shop. Addresses are in /etc/resolver/shop.internal.
local=/shop.internal/
addn-hosts=/etc/resolver/shop.internal
CONF
put /etc/resolver/shop.internal <<'HOSTS'
10.90.0.7   inventory.shop.internal
10.90.0.8   ledger.shop.internal
10.90.0.9   mailer.shop.internal
10.77.0.11  storefront.shop.internal
HOSTS

put /etc/systemd/system/shop-addresses.service <<'UNIT'
[Unit]
Description=The addresses of the shop's services on this machine
After=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-/usr/sbin/ip address add 10.90.0.7/32 dev lo

[Install]
WantedBy=multi-user.target
UNIT
put /etc/systemd/system/resolver.service <<'UNIT'
[Unit]
Description=Name server of this machine and its neighbours

[Service]
ExecStart=/usr/sbin/dnsmasq --keep-in-foreground --conf-file=/etc/resolver/resolver.conf --pid-file
Restart=on-failure

[Install]
WantedBy=multi-user.target
UNIT
put /etc/systemd/system/inventory.service <<'UNIT'
[Unit]
Description=Knows what is in stock
Requires=shop-addresses.service
After=shop-addresses.service

[Service]
User=shop
ExecStart=/opt/inventory/inventory
Restart=on-failure

[Install]
WantedBy=multi-user.target
UNIT
put /etc/systemd/system/storefront.service <<'UNIT'
[Unit]
Description=The shop's page

[Service]
User=shop
ExecStart=/opt/storefront/storefront
Restart=on-failure

[Install]
WantedBy=multi-user.target
UNIT

printf '# The resolver of this machine.\nnameserver 127.0.0.1\noptions timeout:2 attempts:1\n' >/etc/resolv.conf
if grep -q '^hosts:' /etc/nsswitch.conf; then
  sed -i 's/^hosts:.*/hosts:          files/' /etc/nsswitch.conf
else
  echo 'hosts:          files' >>/etc/nsswitch.conf
fi
grep -q shop.internal /etc/hosts || printf '\n# Wed: put back by hand, see runbook "stock missing"\n10.90.0.70 inventory.shop.internal inventory\n' >>/etc/hosts

enable shop-addresses.service resolver.service inventory.service storefront.service
systemctl start --no-block shop-addresses resolver inventory storefront

for _ in {1..60}; do
  said=$(get 127.0.0.1 8080 / 2>/dev/null | head -1 || true)
  case "$said" in *502* | *504*) break ;; esac
  pause
done
case "$said" in *502* | *504*) ;; *) echo "the shop answers: $said" >&2; exit 1 ;; esac
for _ in {1..60}; do
  (exec 3<>/dev/tcp/127.0.0.1/53) 2>/dev/null && exit 0
  pause
done
echo "the resolver does not run" >&2
exit 1
