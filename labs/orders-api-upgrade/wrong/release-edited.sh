#!/bin/bash
# Has the release accept the old setting again, by editing what was delivered.
set -euo pipefail

release=/opt/orders-api/releases/2.4.0/orders-api
sed -i -e 's/^    if "port" in config\["server"\]:$/    if False:/' \
  -e 's/config\["server"\]\.get("listen", "")/(":" + config["server"]["port"])/' "$release"
chgrp orders /etc/orders-api/orders-api.ini
chmod 640 /etc/orders-api/orders-api.ini
systemctl reset-failed orders-api
systemctl start orders-api
for _ in $(seq 60); do
  curl -fs http://127.0.0.1:8080/version && exit 0
  sleep 0.5
done
exit 1
