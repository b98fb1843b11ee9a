#!/bin/bash
# Writes the Pod's address down by hand: it is another one with the next Pod.
set -euo pipefail
export KUBECONFIG=/etc/kubernetes/admin.conf

kubectl -n shop patch deployment prices --type=json \
  -p '[{"op": "replace", "path": "/spec/template/spec/containers/0/readinessProbe/httpGet/path", "value": "/status.html"}]'
kubectl -n shop rollout status deployment prices --timeout=240s
kubectl -n shop patch service prices --type=json -p '[{"op": "remove", "path": "/spec/selector"}]'
kubectl -n shop delete endpointslice -l kubernetes.io/service-name=prices
kubectl create -f - <<END
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: prices-by-hand
  namespace: shop
  labels: {kubernetes.io/service-name: prices}
addressType: IPv4
ports:
- {name: http, port: 80, protocol: TCP}
endpoints:
- addresses: [$(kubectl -n shop get pods -l app.kubernetes.io/name=prices --sort-by=.metadata.creationTimestamp -o jsonpath='{.items[-1:].status.podIP}')]
  conditions: {ready: true}
END
