#!/bin/bash
# orders-api was upgraded by a step that ran as root: the configuration became root's alone, and it still has
# a setting that the new release refuses.
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
add_user orders 991

new=/opt/orders-api/releases/2.4.0
old=/opt/orders-api/releases/2.3.1
install -d "$new" "$old" /etc/orders-api

put "$new/orders-api" <<'PY'
#!/usr/bin/python3
"""orders-api 2.4.0: takes orders over HTTP."""
import configparser
import socket
import sys

CONFIG = "/etc/orders-api/orders-api.ini"
VERSION = "orders-api 2.4.0"


def stop(reason):
    print(f"orders-api: {CONFIG}: {reason}", file=sys.stderr, flush=True)
    sys.exit(78)


def settings():
    config = configparser.ConfigParser()
    try:
        with open(CONFIG) as file:
            config.read_file(file)
    except OSError as error:
        stop(error.strerror)
    except configparser.Error as error:
        stop(str(error).replace("\n", " "))
    if "server" not in config:
        stop("there is no section [server]")
    if "port" in config["server"]:
        stop("[server] port is not known any more, see CHANGES")
    address, colon, port = config["server"].get("listen", "").rpartition(":")
    if not colon or not port.isdigit():
        stop("[server] listen must be ADDRESS:PORT")
    if not config.get("database", "password", fallback=""):
        stop("[database] password is missing")
    return address or "0.0.0.0", int(port)


def serve(address, port):
    with socket.create_server((address, port)) as server:
        print(f"{VERSION} listens on {address}:{port}", flush=True)
        while True:
            client, _ = server.accept()
            with client:
                client.settimeout(5)
                try:
                    path = client.recv(4096).split(b" ")[1:2]
                    known = {b"/version": VERSION, b"/healthz": "ok"}
                    body = known.get(path[0] if path else b"")
                    status = "200 OK" if body else "404 Not Found"
                    text = (body or "not here") + "\n"
                    client.sendall(
                        f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\n"
                        f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode()
                    )
                except OSError:
                    pass


serve(*settings())
PY
sed -e 's/2\.4\.0/2.3.1/g' "$new/orders-api" >"$old/orders-api"
chmod 755 "$new/orders-api" "$old/orders-api"

put "$new/CHANGES" <<'TEXT'
orders-api 2.4.0
  - An order is charged once, also when the client asks again.
  - [server] port is gone. It is now [server] listen = ADDRESS:PORT, so that the address can be chosen;
    listen = 0.0.0.0:8080 is what port = 8080 was.

orders-api 2.3.1
  - Faster start.
TEXT
ln -sfn releases/2.4.0 /opt/orders-api/current

put /etc/orders-api/orders-api.ini <<'INI'
[server]
port = 8080

[database]
host = db1.internal
user = orders
password = 6tFh-wq2e-PLnm
INI
chown root:root /etc/orders-api/orders-api.ini
chmod 600 /etc/orders-api/orders-api.ini

put /etc/systemd/system/orders-api.service <<'UNIT'
[Unit]
Description=Takes orders
StartLimitIntervalSec=30
StartLimitBurst=2

[Service]
User=orders
ExecStart=/opt/orders-api/current/orders-api
Restart=on-failure
RestartSec=500ms

[Install]
WantedBy=multi-user.target
UNIT
# As `systemctl enable` does, without the daemon-reload that a new unit does not need.
ln -sf /etc/systemd/system/orders-api.service /etc/systemd/system/multi-user.target.wants/orders-api.service
systemctl start --no-block orders-api

for _ in {1..120}; do
  [ "$(systemctl is-active orders-api || true)" = failed ] && exit 0
  pause
done
echo "orders-api did not fail: $(systemctl is-active orders-api)" >&2
exit 1
