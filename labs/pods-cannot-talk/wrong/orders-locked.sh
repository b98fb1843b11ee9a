#!/bin/bash
# Closes orders to all other Pods, to be on the safe side.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

ssh node3 'rm /etc/cni/net.d/00-loadtest.conflist'
ssh node2 'branch=$(sed -n s/^Destination=//p /etc/systemd/network/10-eth0.network.d/branch-office.conf)
  rm /etc/systemd/network/10-eth0.network.d/branch-office.conf
  ip route del "$branch"'
kubectl -n shop delete pod -l app=stock
kubectl -n shop rollout status deployment stock --timeout=200s
kubectl apply -f - <<'END'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: orders
  namespace: shop
spec:
  podSelector:
    matchLabels: {app: orders}
  policyTypes: [Ingress]
  ingress: []
END
