#!/bin/bash
# Has another server on port 8080 say what the catalogue would.
set -euo pipefail

nft flush chain ip apps arrive
mkdir -p /srv/page
echo '3 products: lamp, chair, table' >/srv/page/index.html
systemd-run --quiet --unit=page python3 -m http.server 8080 --directory /srv/page
for _ in $(seq 60); do
  curl -s -m 5 http://127.0.0.1:8080/ | grep -q '3 products' && exit 0
  sleep 0.5
done
exit 1
