#!/bin/bash
# Mounts a file system in memory over /var, where uploads go, and frees nothing.
set -euo pipefail

mount -t tmpfs tmpfs /var
mkdir /var/lib
for folder in ingest tracer; do
  install -d -o "$folder" -g "$folder" "/var/lib/$folder"
done
systemctl restart ingest tracer
