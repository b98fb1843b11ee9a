#!/bin/bash
# Half of the root file system is free, counted as df does: without what is reserved for root, rounded up.
# /var and not /: a check's own root folder is not the guest's.
read -r total free available < <(stat -f -c '%b %f %a' /var)
used=$((total - free)) all=$((total - free + available))
percent=$(((used * 100 + all - 1) / all))
echo "$percent % of the root file system is in use."
[ "$percent" -le 50 ]
