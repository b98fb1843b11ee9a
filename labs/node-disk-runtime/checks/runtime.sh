#!/bin/bash
# containerd runs, starts at boot, and tells the kubelet that it and its network are ready.
set -u
export PATH=$PATH:/usr/local/bin
state=$(systemctl is-active containerd)
[ "$state" = active ] || { echo "containerd is $state."; exit 1; }
systemctl is-enabled --quiet containerd || { echo "containerd would not start at the next boot."; exit 1; }
info=$(crictl --timeout 20s info 2>/dev/null) || { echo "containerd runs, and does not answer the kubelet's questions."; exit 1; }
for part in RuntimeReady NetworkReady; do
  ready=$(jq -r --arg part $part '.status.conditions[] | select(.type == $part) | .status' <<<"$info")
  [ "$ready" = true ] || { echo "containerd says that $part is ${ready:-unknown}."; exit 1; }
done
echo "containerd and its network are ready."
