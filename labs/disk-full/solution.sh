#!/bin/bash
set -euo pipefail

systemctl restart tracer
mount --bind / /mnt
rm -rf /mnt/srv/cache/*
umount /mnt
