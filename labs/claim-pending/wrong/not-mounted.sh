#!/bin/bash
# Binds the claim and keeps the entries elsewhere.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n guestbook delete pvc entries
kubectl create -f - <<'END'
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: entries
  namespace: guestbook
spec:
  storageClassName: local-path
  accessModes: [ReadWriteOnce]
  resources:
    requests:
      storage: 1Gi
END
kubectl -n guestbook patch deployment store --type=json \
  -p '[{"op": "replace", "path": "/spec/template/spec/containers/0/volumeMounts/0/mountPath", "value": "/storage"}]'
kubectl -n guestbook rollout status deployment store --timeout=270s
