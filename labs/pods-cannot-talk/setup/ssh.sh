#!/bin/bash
# The administrators' way from node1 to the workers.
set -euo pipefail
install -d -m 700 /root/.ssh
if [ "$FAULTLINE_NODE" = node1 ]; then
  [ -e /root/.ssh/id_ed25519 ] || ssh-keygen -q -t ed25519 -N '' -C root@node1 -f /root/.ssh/id_ed25519
  printf 'Host node*\n  StrictHostKeyChecking accept-new\n' >/root/.ssh/config
  for node in $(awk '/node[0-9]/ && !/node1$/ {print $2}' /etc/hosts); do
    until nc -N -w 10 "$node" 9022 </root/.ssh/id_ed25519.pub; do sleep 1; done
    until ssh -o ConnectTimeout=20 "$node" true; do sleep 1; done
  done
else
  # Beside the keys of whoever works here.
  key=$(timeout 90 nc -l 9022)
  [[ $key == ssh-ed25519\ * ]]
  printf '%s\n' "$key" >>/root/.ssh/authorized_keys
fi
