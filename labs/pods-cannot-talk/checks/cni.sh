#!/bin/bash
# The first configuration in the folder is the one that is used for new Pods.
set -u
shopt -s nullglob
files=(/etc/cni/net.d/*.conf /etc/cni/net.d/*.conflist /etc/cni/net.d/*.json)
[ ${#files[@]} -gt 0 ] || { echo "There is no configuration in /etc/cni/net.d."; exit 1; }
first=$(printf '%s\n' "${files[@]}" | LC_ALL=C sort | head -n 1)
kinds=$(grep -oE '"type": *"[a-z-]+"' "$first" | cut -d '"' -f 4)
grep -qx flannel <<<"$kinds" || { echo "New Pods get their network from ${kinds%%$'\n'*}."; exit 1; }
echo "New Pods get their network from flannel."
