#!/bin/bash
# Runs the service as root, who can read everything.
set -euo pipefail

sed -i 's/^port *=.*/listen = 0.0.0.0:8080/' /etc/orders-api/orders-api.ini
sed -i 's/^User=.*/User=root/' /etc/systemd/system/orders-api.service
systemctl daemon-reload
systemctl reset-failed orders-api
systemctl start orders-api
for _ in $(seq 60); do
  curl -fs http://127.0.0.1:8080/version && exit 0
  sleep 0.5
done
exit 1
