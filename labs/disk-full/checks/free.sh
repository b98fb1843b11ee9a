#!/bin/bash
# Half of the root file system is free, counted as df does: without what is reserved for root, rounded up.
# Where the guest's programs are: a check's own root folder is not the guest's, and another file system may lie over /var.
read -r total free available < <(stat -f -c '%b %f %a' "$FAULTLINE_GUEST_USR")
used=$((total - free)) all=$((total - free + available))
percent=$(((used * 100 + all - 1) / all))
echo "$percent % of the root file system is in use."
[ "$percent" -le 50 ]
