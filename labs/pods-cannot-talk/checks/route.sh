#!/bin/bash
# Every Pod network that flannel knows is reached by flannel's route, and nothing in the network's configuration says otherwise.
set -u
if grep -rqs '^[[:space:]]*Destination=10\.244\.' /etc/systemd/network; then
  echo "After the next boot a part of the Pods' network would be sent somewhere else."
  exit 1
fi
while read -r net _ via _; do
  for host in 2 100 200; do
    got=$(ip -4 route get "${net%.*}.$host" 2>/dev/null)
    case "$got" in *"via $via "*) ;; *) echo "What is for a Pod at ${net%.*}.$host is not sent to its node."; exit 1 ;; esac
  done
done < <(ip -4 route show | grep -E '^10\.244\.[0-9]+\.0/24 via 10\.77\.0\.1[1-5] ')
echo "All Pods' networks are sent to their nodes."
