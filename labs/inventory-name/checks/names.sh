#!/bin/bash
# Every name of the zone, as a program sees it, and none of them from /etc/hosts.
set -u
if line=$(grep -v '^[[:space:]]*#' /etc/hosts | grep -im1 'shop\.internal'); then
  echo "/etc/hosts holds a name of shop.internal: $line"
  exit 1
fi
for pair in inventory=10.90.0.7 ledger=10.90.0.8 mailer=10.90.0.9 storefront=10.77.0.11; do
  name=${pair%%=*}.shop.internal
  got=$(timeout 10 getent ahostsv4 "$name" | awk 'NR == 1 { print $1 }')
  [ "$got" = "${pair##*=}" ] || { echo "$name: ${got:-not found}"; exit 1; }
done
echo "inventory, ledger, mailer and storefront are found."
