#!/bin/bash
# Half of the root file system's blocks are free.
# /var and not /: a check's own root folder is not the guest's.
read -r total free < <(stat -f -c '%b %f' /var)
percent=$((free * 100 / total))
echo "$percent % of the root file system is free."
[ "$percent" -ge 50 ]
