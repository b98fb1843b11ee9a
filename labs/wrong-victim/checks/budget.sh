#!/bin/bash
# Slice and services are arranged as before, and what runs is what the unit files say.
set -u
max=$(cat /sys/fs/cgroup/shop.slice/memory.max 2>/dev/null)
[ "${max:-max}" != max ] && [ "$max" -le $((160 << 20)) ] || { echo "shop.slice has ${max:-no limit} bytes, not 160 MiB."; exit 1; }
for unit in ledger reports; do
  pid=$(systemctl show -p MainPID --value $unit)
  grep -qx "0::/shop.slice/$unit.service" "/proc/$pid/cgroup" 2>/dev/null || { echo "$unit does not run in shop.slice."; exit 1; }
  systemctl is-enabled --quiet $unit || { echo "$unit would not start at the next boot."; exit 1; }
  [ "$(systemctl show -p NeedDaemonReload --value $unit)" = no ] || { echo "What runs of $unit is not what its unit files say."; exit 1; }
  [ "$(systemctl show -p OOMScoreAdjust --value $unit)" = "$(cat "/proc/$pid/oom_score_adj")" ] || { echo "How $unit runs now would be lost with its next restart."; exit 1; }
done
systemctl is-active --quiet reports-ask.timer || { echo "Nobody asks for reports any more."; exit 1; }
ls /run/systemd/system.control/*.d/*.conf /run/systemd/system/{ledger,reports}.service.d/*.conf 2>/dev/null | grep -qE '/(ledger|reports)\.service\.d/' && { echo "A setting of the services would be lost at the next boot."; exit 1; }
echo "160 MiB for both, as it was."
