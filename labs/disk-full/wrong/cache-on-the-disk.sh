#!/bin/bash
# Takes the cache out of memory to get at the files below, and does not mount it again.
set -euo pipefail

systemctl restart tracer
umount /srv/cache
rm -rf /srv/cache/*
mkdir /srv/cache/thumbs
echo warm >/srv/cache/thumbs/index
