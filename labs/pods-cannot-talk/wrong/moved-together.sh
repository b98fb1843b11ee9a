#!/bin/bash
# Moves stock to node2, away from the scanner.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

ssh node3 'rm /etc/cni/net.d/00-loadtest.conflist'
ssh node2 'branch=$(sed -n s/^Destination=//p /etc/systemd/network/10-eth0.network.d/branch-office.conf)
  rm /etc/systemd/network/10-eth0.network.d/branch-office.conf
  ip route del "$branch"'
kubectl -n shop patch deployment stock \
  -p '{"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node2"}}}}}'
kubectl -n shop rollout status deployment stock --timeout=200s
