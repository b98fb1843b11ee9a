#!/bin/bash
# The kernel's own number for the control group in which reports run.
set -u
pid=$(systemctl show -p MainPID --value reports)
group=$(sed -n 's/^0:://p' "/proc/$pid/cgroup" 2>/dev/null)
case "$group" in /shop.slice/*) ;; *) echo "reports does not run in shop.slice."; exit 1 ;; esac
max=$(cat "/sys/fs/cgroup$group/memory.max")
[ "$max" != max ] || { echo "Reports may take all of shop.slice."; exit 1; }
echo "Reports may take $((max >> 20)) MiB."
[ "$max" -le $((96 << 20)) ]
