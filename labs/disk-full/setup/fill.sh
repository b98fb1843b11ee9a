#!/bin/bash
# Fills the root file system with a removed file that is still open, and with files under a mount point. Blocks
# are reserved, not written, so this takes no time and no space on the host.
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
add_user ingest 991
add_user tracer 992
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
install -d /opt/ingest /opt/tracer /etc/cron.daily
install -d -o ingest -g ingest /var/lib/ingest
install -d -o tracer -g tracer /var/lib/tracer

put /opt/ingest/ingest <<'PY'
#!/usr/bin/python3
"""ingest: stores what is uploaded in /var/lib/ingest."""
import os
import socket


def store():
    path = "/var/lib/ingest/upload.part"
    try:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 8 << 20)
        return "200 OK", "stored"
    except OSError as error:
        print(f"ingest: {path}: {error.strerror}", flush=True)
        return "507 Insufficient Storage", f"{path}: {error.strerror}"
    finally:
        if os.path.exists(path):
            os.remove(path)


with socket.create_server(("0.0.0.0", 8080)) as server:
    while True:
        client, _ = server.accept()
        with client:
            client.settimeout(5)
            try:
                client.recv(4096)
                status, text = store()
                client.sendall(
                    f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text) + 1}\r\n"
                    f"Connection: close\r\n\r\n{text}\n".encode()
                )
            except OSError:
                pass
PY

put /opt/tracer/tracer <<'PY'
#!/usr/bin/python3
"""tracer: records traces in /var/lib/tracer."""
import os
import sys
import time

folder = "/var/lib/tracer"
number = 1 + max([int(n.split(".")[0]) for n in os.listdir(folder) if n.endswith(".trace")], default=0)
with open(f"{folder}/{number:04}.trace", "ab", buffering=0) as trace:
    print(f"tracer: writing to {trace.name}", flush=True)
    while True:
        try:
            trace.write(b"tick\n")
        except OSError as error:
            print(f"tracer: {error.strerror}", file=sys.stderr, flush=True)
        time.sleep(30)
PY

for unit in ingest tracer; do
  put /etc/systemd/system/$unit.service <<UNIT
[Unit]
Description=$unit

[Service]
User=$unit
ExecStart=/opt/$unit/$unit
Restart=on-failure

[Install]
WantedBy=multi-user.target
UNIT
done

put /etc/cron.daily/clean-traces <<'CRON'
#!/bin/sh
# Traces are of no use after a day.
rm -f /var/lib/tracer/*.trace
CRON
chmod 755 /opt/ingest/ingest /opt/tracer/tracer /etc/cron.daily/clean-traces

enable tracer.service ingest.service
systemctl start --no-block tracer ingest
for _ in {1..120}; do
  [ -e /var/lib/tracer/0001.trace ] && break
  pause
done

# After the removed file is let go, two fifths are free: less than what is asked for.
read -r block total free available < <(stat -f -c '%S %b %f %a' /)
hidden=$((free - total * 2 / 5))
[ "$hidden" -gt 0 ] || { echo "the root file system is too full for this lab" >&2; exit 1; }
install -d /srv/cache/thumbs
part=$((hidden * block / 3))
for n in 1 2 3; do
  fallocate -l "$part" "/srv/cache/thumbs/2023-$n.pack"
done
chmod -R a+rX /srv/cache

if ! [[ $(</etc/fstab) == *' /srv/cache '* ]]; then
  echo 'tmpfs /srv/cache tmpfs size=16M,mode=0755 0 0' >>/etc/fstab
  touch -d '2 months ago' /etc/fstab
fi
mount /srv/cache
install -d /srv/cache/thumbs
echo warm >/srv/cache/thumbs/index

# Everything that services may take, in the file that tracer writes; the reserve for root stays. Then the nightly
# clean-up removes the file's name.
read -r available < <(stat -f -c '%a' /)
fallocate -l $(((available - 512) * block)) /var/lib/tracer/0001.trace
/etc/cron.daily/clean-traces

for _ in {1..120}; do
  said=$(get 127.0.0.1 8080 /upload-test 2>/dev/null || true)
  case "$said" in *"No space left"*) exit 0 ;; esac
  pause
done
echo "ingest says: $said" >&2
exit 1
