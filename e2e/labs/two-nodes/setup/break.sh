#!/bin/sh
rm -f /srv/backup/node2 /etc/backup-target
