#!/bin/bash
# The adjustment of each running process: the ledger's is lower than that of reports.
set -u
adjustment() {
  local pid
  pid=$(systemctl show -p MainPID --value "$1")
  cat "/proc/$pid/oom_score_adj" 2>/dev/null
}
ledger=$(adjustment ledger) reports=$(adjustment reports)
[ -n "$ledger" ] || { echo "The ledger does not run."; exit 1; }
[ -n "$reports" ] || { echo "reports does not run."; exit 1; }
[ "$ledger" -lt "$reports" ] || { echo "The kernel takes the ledger first, or as soon as reports."; exit 1; }
echo "The kernel takes reports first."
