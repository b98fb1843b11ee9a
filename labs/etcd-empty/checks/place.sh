#!/bin/bash
# The etcd that runs has /srv/etcd as its data folder.
set -u
for comm in /proc/[0-9]*/comm; do
  [ "$(cat "$comm" 2>/dev/null)" = etcd ] || continue
  process=${comm%/comm}
  folder=$(tr '\0' '\n' <"$process/cmdline" | sed -n 's/^--data-dir=//p')
  # The root of a bind mount on its disk, and where it is in the container.
  place=$(awk -v at="$folder" '$5 == at {print $4}' "$process/mountinfo" | tail -1)
  [ "$place" = /srv/etcd ] || { echo "The etcd that runs has its data in ${place:-an unknown place}."; exit 1; }
  [ -f /srv/etcd/member/snap/db ] || { echo "/srv/etcd holds no etcd's data."; exit 1; }
  echo "etcd's data are in /srv/etcd."
  exit 0
done
echo "etcd does not run."
exit 1
