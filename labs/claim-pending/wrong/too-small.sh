#!/bin/bash
# Asks for a tenth of the room that the guest book needs.
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
      storage: 100Mi
END
kubectl -n guestbook wait deployment store --for=condition=Available --timeout=270s
