#!/bin/bash
# What ran goes on running, and the cache is still in memory.
set -u
for unit in ingest tracer; do
  state=$(systemctl is-active $unit)
  [ "$state" = active ] || { echo "$unit is $state."; exit 1; }
done
pid=$(systemctl show -p MainPID --value tracer)
name=$(readlink /proc/"$pid"/fd/* 2>/dev/null | grep '^/var/lib/tracer/' | head -1)
[ -n "$name" ] || { echo "tracer has no file open in /var/lib/tracer."; exit 1; }
kind=$(stat -f -c %T /srv/cache 2>/dev/null)
[ "$kind" = tmpfs ] || { echo "/srv/cache is not the file system in memory any more."; exit 1; }
echo "ingest and tracer run; /srv/cache is in memory."
