#!/bin/bash
# Monday night: bindings of unknown users were removed, the scheduler's among them, and the controller manager got two
# flags, one of them misspelt. Then the morning's work is tried: nothing of it gets done.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PATH:/usr/local/bin

kubectl delete clusterrolebinding system:kube-scheduler

# Renamed into its place: the kubelet reads every file of that folder, half-written ones too.
manifest=/etc/kubernetes/manifests/kube-controller-manager.yaml
sed 's/^    - kube-controller-manager$/&\n    - --profiling=false\n    - --terminated-pod-gc-threshhold=50/' "$manifest" >/etc/kubernetes/.new
grep -q threshhold /etc/kubernetes/.new
chmod 600 /etc/kubernetes/.new
mv /etc/kubernetes/.new "$manifest"

# A new process has no watches left from before.
old=$(crictl ps -q --name '^kube-scheduler$')
crictl stop --timeout 2 "$old" >/dev/null

said=
for _ in $(seq 90); do
  new=$(crictl ps -q --name '^kube-scheduler$')
  down=$(crictl ps -a --state exited --name '^kube-controller-manager$' --latest -q)
  up=$(crictl ps -q --name '^kube-controller-manager$')
  [ -n "$new" ] && [ "$new" != "$old" ] && [ -n "$down" ] && [ -z "$up" ] && crictl logs "$down" 2>&1 | grep threshhold >/dev/null && said=yes && break
  sleep 2
done
# Of the one that was seen: by now the next may be starting, and have said nothing yet.
[ -n "$said" ] || { echo "the controller manager did not end over its flag" >&2; exit 1; }

kubectl -n shop scale deployment web --replicas=2
kubectl -n shop delete pod -l app=web --now
kubectl create -f - <<'POD'
apiVersion: v1
kind: Pod
metadata:
  name: stock-import
  namespace: shop
  labels: {app: stock-import}
spec:
  restartPolicy: Never
  containers:
  - name: import
    image: busybox:1.35
    imagePullPolicy: IfNotPresent
    command: [/bin/sh, -c, "echo 1204 articles imported"]
    resources:
      requests: {cpu: 10m, memory: 8Mi}
POD
sleep 10
[ -z "$(kubectl -n shop get pod stock-import -o jsonpath='{.spec.nodeName}')" ]
[ -z "$(kubectl -n shop get pods -l app=web -o name)" ]
