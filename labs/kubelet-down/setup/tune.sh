#!/bin/bash
# On node2: images are to be cleaned up from 85 % on, by half a change; and the kubelet's client certificate is named by the date of
# one that has been rotated away. Then the kubelet was restarted.
set -euo pipefail
cd /var/lib/kubelet
[ -L pki/kubelet-client-current.pem ]
sed -i 's/^imageGCHighThresholdPercent: .*/imageGCHighThresholdPercent: 85/' config.yaml
grep -q '^imageGCHighThresholdPercent: 85$' config.yaml
old=pki/kubelet-client-$(date -d '-211 days' +%F)-04-12-50.pem
sed -i "s#/var/lib/kubelet/pki/kubelet-client-current.pem#/var/lib/kubelet/$old#" /etc/kubernetes/kubelet.conf
[ "$(grep -c "$old" /etc/kubernetes/kubelet.conf)" = 2 ]
systemctl restart --no-block kubelet
for _ in $(seq 90); do
  journalctl -u kubelet -n 20 -o cat | grep imageGCLowThresholdPercent >/dev/null && exit 0
  sleep 1
done
journalctl -u kubelet -n 5 -o cat >&2
exit 1
