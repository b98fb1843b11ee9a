#!/bin/bash
# Asks for the yearly report, and looks whether the ledger is the same process before and after.
set -u
state=$(systemctl is-active ledger)
[ "$state" = active ] || { echo "The ledger is $state."; exit 1; }
before=$(systemctl show -p MainPID --value ledger)
kills=$(awk '$1 == "oom_kill" { print $2 }' /sys/fs/cgroup/shop.slice/ledger.service/memory.events)
curl -s -m 90 http://127.0.0.1:9100/run/year >/dev/null
sleep 1
after=$(systemctl show -p MainPID --value ledger)
[ "$before" = "$after" ] || { echo "The ledger was process $before before the report and ${after/#0/none} after it."; exit 1; }
now=$(awk '$1 == "oom_kill" { print $2 }' /sys/fs/cgroup/shop.slice/ledger.service/memory.events)
[ "$kills" = "$now" ] || { echo "The kernel killed something of the ledger's while the report ran."; exit 1; }
said=$(curl -s -m 10 http://127.0.0.1:8080/)
case "$said" in *"60 MiB of books"*) ;; *) echo "The ledger says: ${said:-nothing}"; exit 1 ;; esac
echo "Process $before lived through it: $said."
