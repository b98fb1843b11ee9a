#!/bin/bash
# Takes back what the audit asked for.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin

kubectl create clusterrolebinding system:kube-scheduler --clusterrole=system:kube-scheduler --user=system:kube-scheduler
manifest=/etc/kubernetes/manifests/kube-controller-manager.yaml
sed '/--profiling=\|threshhold/d' "$manifest" >/root/kcm.yaml
mv /root/kcm.yaml "$manifest"
for _ in $(seq 130); do
  imported=$(kubectl -n shop get pod stock-import -o jsonpath='{.status.phase}')
  web=$(kubectl -n shop get deployment web -o jsonpath='{.status.updatedReplicas}/{.status.readyReplicas}')
  [ "$imported" = Succeeded ] && [ "$web" = 2/2 ] && break
  sleep 2
done
kubectl -n kube-system wait pod -l tier=control-plane --for=condition=Ready --timeout=60s
