#!/bin/bash
# Gives the scheduler's rights to everybody who has signed in.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin

kubectl create clusterrolebinding system:kube-scheduler --clusterrole=system:kube-scheduler --group=system:authenticated
manifest=/etc/kubernetes/manifests/kube-controller-manager.yaml
sed 's/threshhold/threshold/' "$manifest" >/root/kcm.yaml
mv /root/kcm.yaml "$manifest"
for _ in $(seq 130); do
  imported=$(kubectl -n shop get pod stock-import -o jsonpath='{.status.phase}')
  web=$(kubectl -n shop get deployment web -o jsonpath='{.status.updatedReplicas}/{.status.readyReplicas}')
  [ "$imported" = Succeeded ] && [ "$web" = 2/2 ] && break
  sleep 2
done
kubectl -n kube-system wait pod -l tier=control-plane --for=condition=Ready --timeout=60s
