#!/bin/bash
# Thursday evening: the audit log was switched on in the API server's manifest. A line has one space too many, the policy's folder
# is not mounted, and the policy has a misspelt level.
set -euo pipefail
export PATH=$PATH:/usr/local/bin

mkdir -p /etc/kubernetes/audit /var/log/kubernetes
cat >/etc/kubernetes/audit/policy.yaml <<'END'
# What is written to the audit log, and how much of it. The first rule that fits decides.
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
# Not what nodes and the cluster's own service accounts do all day
- level: None
  userGroups: [system:nodes, system:serviceaccounts:kube-system]
# Who touched secrets; never what is in them
- level: Metdata
  resources:
  - group: ""
    resources: [secrets]
# Every change
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
END

# Renamed into its place: the kubelet reads every file of that folder, half-written ones too.
manifest=/etc/kubernetes/manifests/kube-apiserver.yaml
sed -e 's/^    - kube-apiserver$/&\
    - --audit-log-maxsize=20\
    - --audit-log-path=\/var\/log\/kubernetes\/audit.log\
    - --audit-policy-file=\/etc\/kubernetes\/audit\/policy.yaml/' \
  -e 's/^    volumeMounts:$/&\
    - mountPath: \/var\/log\/kubernetes\
       name: audit-log/' \
  -e 's/^  volumes:$/&\
  - hostPath:\
      path: \/var\/log\/kubernetes\
      type: DirectoryOrCreate\
    name: audit-log/' "$manifest" >/etc/kubernetes/.new
[ "$(grep -c audit /etc/kubernetes/.new)" = 5 ]
chmod 600 /etc/kubernetes/.new
mv /etc/kubernetes/.new "$manifest"

for _ in $(seq 120); do
  [ -n "$(crictl ps -q --name '^kube-apiserver$')" ] || {
    journalctl -u kubelet --since -10min -o cat | grep 'Could not process manifest file' >/dev/null && exit 0
  }
  sleep 2
done
echo "the API server still runs" >&2
exit 1
