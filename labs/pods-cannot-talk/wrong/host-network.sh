#!/bin/bash
# Runs stock in the network of its node: the next Pod there has the old trouble.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

ssh node2 'branch=$(sed -n s/^Destination=//p /etc/systemd/network/10-eth0.network.d/branch-office.conf)
  rm /etc/systemd/network/10-eth0.network.d/branch-office.conf
  ip route del "$branch"'
kubectl -n shop patch deployment stock --type=merge \
  -p '{"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}, "template": {"spec": {"hostNetwork": true}}}}'
kubectl -n shop rollout status deployment stock --timeout=200s
