#!/bin/bash
# The apps run, each in its own namespace.
set -u
outside=$(stat -Lc %i /proc/1/ns/net)
for app in web db; do
  ActiveState=none MainPID=0
  while IFS='=' read -r key value; do
    case "$key" in ActiveState) ActiveState=$value ;; MainPID) MainPID=$value ;; esac
  done < <(systemctl show -p ActiveState,MainPID app-$app)
  [ "$ActiveState" = active ] || { echo "The unit app-$app is $ActiveState."; exit 1; }
  { read -r inside && read -r named; } < <(stat -Lc %i "/proc/$MainPID/ns/net" "/run/netns/$app" 2>/dev/null)
  [ "${inside:-$outside}" != "$outside" ] || { echo "app-$app runs in the machine's own network."; exit 1; }
  [ "$inside" = "${named:-}" ] || { echo "app-$app runs in a namespace that is not the one named $app."; exit 1; }
done
echo "web and db run apart."
