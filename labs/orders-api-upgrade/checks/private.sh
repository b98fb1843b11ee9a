#!/bin/bash
# The configuration with the password: orders can read it, strangers can't.
set -u

file=/etc/orders-api/orders-api.ini
[ -f "$file" ] || { echo "$file does not exist."; exit 1; }
grep -q '^password *= *6tFh-wq2e-PLnm' "$file" || { echo "The database password is not in $file any more."; exit 1; }
setpriv --reuid=orders --regid=orders --init-groups cat "$file" >/dev/null 2>&1 || { stat -c '%n is %A %U:%G.' "$file"; exit 1; }
setpriv --reuid=nobody --regid=nogroup --clear-groups cat "$file" >/dev/null 2>&1 && { stat -c '%n is %A %U:%G.' "$file"; exit 1; }
stat -c '%n is %A %U:%G.' "$file"
