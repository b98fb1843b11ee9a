#!/bin/bash
# Puts the user orders into the group root: it can read the password, and whatever else that group can.
set -euo pipefail

sed -i 's/^port *=.*/listen = 0.0.0.0:8080/' /etc/orders-api/orders-api.ini
chmod 640 /etc/orders-api/orders-api.ini
usermod -aG root orders
systemctl reset-failed orders-api
systemctl start orders-api
for _ in $(seq 60); do
  curl -fs http://127.0.0.1:8080/version && exit 0
  sleep 0.5
done
exit 1
