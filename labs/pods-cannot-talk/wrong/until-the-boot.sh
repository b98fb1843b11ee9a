#!/bin/bash
# Takes the route out and leaves it in the configuration.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

ssh node3 'rm /etc/cni/net.d/00-loadtest.conflist'
ssh node2 'ip route del "$(sed -n s/^Destination=//p /etc/systemd/network/10-eth0.network.d/branch-office.conf)"'
kubectl -n shop delete pod -l app=stock
kubectl -n shop rollout status deployment stock --timeout=200s
