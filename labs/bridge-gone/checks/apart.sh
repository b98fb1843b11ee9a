#!/bin/bash
# The apps run, each in its own namespace, as they were delivered.
set -u
for app in web db; do
  state=$(systemctl is-active app-$app)
  [ "$state" = active ] || { echo "The unit app-$app is $state."; exit 1; }
  pid=$(systemctl show -p MainPID --value app-$app)
  inside=$(stat -Lc %i "/proc/$pid/ns/net") named=$(stat -Lc %i "/run/netns/$app" 2>/dev/null) outside=$(stat -Lc %i /proc/1/ns/net)
  [ "$inside" != "$outside" ] || { echo "app-$app runs in the machine's own network."; exit 1; }
  [ "$inside" = "$named" ] || { echo "app-$app runs in a namespace that is not the one named $app; restart it."; exit 1; }
done
echo "web and db run apart."
