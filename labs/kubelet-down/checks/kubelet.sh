#!/bin/bash
# The kubelet of this node is up, comes back at the next boot, and is who it should be.
set -u
state=$(systemctl is-active kubelet)
[ "$state" = active ] || { echo "The kubelet of $(hostname) is $state."; exit 1; }
systemctl is-enabled --quiet kubelet || { echo "The kubelet would not start at the next boot."; exit 1; }
file=$(awk '$1 == "client-certificate:" {print $2}' /etc/kubernetes/kubelet.conf)
[ "$file" = /var/lib/kubelet/pki/kubelet-client-current.pem ] || { echo "The kubelet's client certificate is not the one that is renewed: ${file:-none}."; exit 1; }
who=$(openssl x509 -in "$file" -noout -subject -nameopt multiline 2>/dev/null | awk '$1 == "commonName" {print $3}')
[ "$who" = "system:node:$(hostname)" ] || { echo "The kubelet comes as ${who:-nobody}."; exit 1; }
before=$(systemctl show -p MainPID --value kubelet)
sleep 3
after=$(systemctl show -p MainPID --value kubelet)
[ "$before" = "$after" ] || { echo "The kubelet starts again and again."; exit 1; }
echo "The kubelet runs as $who, with a certificate that is renewed."
