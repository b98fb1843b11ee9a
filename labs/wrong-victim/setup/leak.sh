#!/bin/bash
# Two services share a slice of 160 MiB. Reports keep everything in memory and are protected from the OOM killer,
# so the slice runs out and the kernel kills the ledger.
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
add_user ledger 991
add_user reports 992
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
install -d /opt/ledger /opt/reports /etc/reports /etc/systemd/system/reports.service.d

put /opt/ledger/ledger <<'PY'
#!/usr/bin/python3
"""ledger: holds the books in memory."""
import socket
import time

books = bytearray(b"\x11") * (60 << 20)
since = time.time()

with socket.create_server(("0.0.0.0", 8080)) as server:
    print("ledger: the books are open", flush=True)
    while True:
        client, _ = server.accept()
        with client:
            client.settimeout(5)
            try:
                client.recv(4096)
                text = f"{len(books) >> 20} MiB of books, open for {int(time.time() - since)} s"
                client.sendall(
                    f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(text) + 1}\r\n"
                    f"Connection: close\r\n\r\n{text}\n".encode()
                )
            except OSError:
                pass
PY

put /opt/reports/reports <<'PY'
#!/usr/bin/python3
"""reports: makes reports, a month at a time."""
import configparser
import socket
import time

CONFIG = "/etc/reports/reports.ini"


def report():
    config = configparser.ConfigParser()
    config.read(CONFIG)
    keep = config.getint("reports", "keep_months", fallback=1)
    months, done = [], 0
    for _ in range(12):
        months.append(bytearray(b"\x22") * (11 << 20))
        if keep > 0:
            del months[:-keep]
        done += 1
        time.sleep(0.1)
    return f"{done} months"


with socket.create_server(("0.0.0.0", 9100)) as server:
    print("reports: ready", flush=True)
    while True:
        client, _ = server.accept()
        with client:
            client.settimeout(5)
            try:
                asked = client.recv(4096).split(b" ")[1:2]
                if asked == [b"/run/year"]:
                    print("reports: yearly report begins", flush=True)
                    status, text = "200 OK", report()
                    print(f"reports: yearly report done, {text}", flush=True)
                else:
                    status, text = "404 Not Found", "there is /run/year"
                client.sendall(
                    f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text) + 1}\r\n"
                    f"Connection: close\r\n\r\n{text}\n".encode()
                )
            except OSError:
                pass
PY
chmod 755 /opt/ledger/ledger /opt/reports/reports

put /opt/reports/SETTINGS <<'TEXT'
/etc/reports/reports.ini

[reports]
keep_months   How many months a report holds in memory at once, 11 MiB each. A month that is asked for again
              is faster when it is still there. 0 holds all of them. Reports ask for each month once; 1 is enough.
TEXT
put /etc/reports/reports.ini <<'INI'
[reports]
# month-end close: faster!!
keep_months = 0
INI

put /etc/systemd/system/shop.slice <<'UNIT'
[Unit]
Description=Ledger and reports, on the budget of the shop

[Slice]
MemoryMax=160M
MemorySwapMax=0
UNIT
for unit in ledger reports; do
  put /etc/systemd/system/$unit.service <<UNIT
[Unit]
Description=$unit
StartLimitIntervalSec=0

[Service]
User=$unit
Slice=shop.slice
ExecStart=/opt/$unit/$unit
Restart=always
RestartSec=3

[Install]
WantedBy=multi-user.target
UNIT
done
put /etc/systemd/system/reports.service.d/10-priority.conf <<'UNIT'
[Service]
# month-end close: reports must get through
OOMScoreAdjust=-800
UNIT
put /etc/systemd/system/reports-ask.service <<'UNIT'
[Unit]
Description=Asks for a yearly report

[Service]
Type=oneshot
ExecStart=-/usr/bin/curl -s -m 60 http://127.0.0.1:9100/run/year
UNIT
put /etc/systemd/system/reports-ask.timer <<'UNIT'
[Unit]
Description=Asks for a yearly report every 45 seconds

[Timer]
OnActiveSec=45
OnUnitInactiveSec=45
AccuracySec=1

[Install]
WantedBy=timers.target
UNIT
enable ledger.service reports.service
systemctl start --no-block ledger reports

up() {
  for _ in {1..120}; do
    get 127.0.0.1 "$1" / >/dev/null 2>&1 && return 0
    pause
  done
  echo "nothing answers on port $1" >&2
  return 1
}
up 8080
up 9100
before=$(systemctl show -p NRestarts --value ledger)
get 127.0.0.1 9100 /run/year >/dev/null 2>&1 || true
for _ in {1..60}; do
  [ "$(systemctl show -p NRestarts --value ledger)" != "$before" ] && break
  pause
done
after=$(systemctl show -p NRestarts --value ledger)
[ "$after" != "$before" ] || { echo "the ledger was not killed" >&2; exit 1; }
up 8080
mkdir -p /etc/systemd/system/timers.target.wants
ln -sf /etc/systemd/system/reports-ask.timer /etc/systemd/system/timers.target.wants/reports-ask.timer
systemctl start reports-ask.timer
