#!/bin/bash
# Half of the root file system's blocks are free.
read -r total free < <(stat -f -c '%b %f' /)
percent=$((free * 100 / total))
echo "$percent % of the root file system is free."
[ "$percent" -ge 50 ]
