#!/bin/bash
# Stops this leak alone: the next one kills the ledger again.
set -euo pipefail

sed -i 's/^keep_months *=.*/keep_months = 1/' /etc/reports/reports.ini
systemctl restart reports
for _ in $(seq 120); do
  curl -s -m 5 http://127.0.0.1:9100/ >/dev/null && break
  sleep 0.5
done
