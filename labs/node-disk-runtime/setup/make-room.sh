#!/bin/bash
# On node2: two lines of containerd's configuration were changed to make room, both to something that does not exist.
set -euo pipefail
export PATH=$PATH:/usr/local/bin
cd /etc/containerd
sed -i -e "s/^  snapshotter = 'overlayfs'$/  snapshotter = 'overlay'/" \
  -e "s#^  conf_dir = '/etc/cni/net.d'\$#  conf_dir = '/etc/cni/conf.d'#" config.toml
[ "$(grep -cE "= 'overlay'|/etc/cni/conf.d" config.toml)" = 2 ]
systemctl restart containerd
for _ in $(seq 60); do
  case "$(crictl version 2>&1 || true)" in *'unknown service'*) exit 0 ;; esac
  sleep 1
done
crictl version >&2
exit 1
