#!/bin/bash
# node2: a route to a branch office whose network is a part of the Pods'. node3: a network for load tests whose CNI configuration
# comes before flannel's.
set -euo pipefail
case "$FAULTLINE_NODE" in
  node2)
    # node3's Pods, as flannel's route has them: the lower half, which is where they are.
    pods=$(ip -4 route show | awk '$1 ~ /^10\.244\./ && /via 10\.77\.0\.13/ {print $1}')
    [ -n "$pods" ]
    branch=${pods%/*}/25
    mkdir -p /etc/systemd/network/10-eth0.network.d
    cat >/etc/systemd/network/10-eth0.network.d/branch-office.conf <<END
# Branch office Lindau, by way of the gateway
[Route]
Destination=$branch
Gateway=10.77.0.1
END
    ip route add "$branch" via 10.77.0.1 dev eth0 proto static
    ;;
  node3)
    cat >/etc/cni/net.d/00-loadtest.conflist <<'END'
{
  "cniVersion": "1.0.0",
  "name": "loadtest",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni-loadtest",
      "isGateway": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.88.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    }
  ]
}
END
    ;;
esac
