#!/bin/bash
# The unit is up and stays up, as the user orders, started from the release as it was delivered.
set -u

state=$(systemctl is-active orders-api)
[ "$state" = active ] || { echo "The unit orders-api is $state."; exit 1; }
systemctl is-enabled --quiet orders-api || { echo "The unit would not start at the next boot."; exit 1; }

pid=$(systemctl show -p MainPID --value orders-api)
sleep 2
again=$(systemctl show -p MainPID --value orders-api)
[ "$pid" = "$again" ] && [ -d "/proc/$pid" ] || { echo "The service restarts: process $pid became $again."; exit 1; }

user=$(stat -c %U "/proc/$pid")
[ "$user" = orders ] || { echo "Process $pid runs as $user, not as orders."; exit 1; }
awk '/^(Gid|Groups):/ { for (i = 2; i <= NF; i++) if ($i == 0) exit 1 }' "/proc/$pid/status" ||
  { echo "Process $pid has the rights of the group root."; exit 1; }

# The release is a program for Python. What is run comes after the interpreter and its options.
mapfile -d '' -t words <"/proc/$pid/cmdline"
program=
case $(readlink "/proc/$pid/exe") in
  /usr/bin/python3*) for program in "${words[@]:1}"; do [[ $program == -[BEIPsSu] ]] || break; done ;;
esac
case $(realpath -q "$program") in
  /opt/orders-api/*) ;;
  *) echo "Process $pid is not the program in /opt/orders-api."; exit 1 ;;
esac
sum=$(sha256sum <"$program" 2>/dev/null)
[ "${sum%% *}" = 6ac92acc1f7a8828cd7590f341531b92e824abc545359940c11af51a5a89d72b ] || { echo "Process $pid is not the release 2.4.0 as it was delivered."; exit 1; }
echo "Process $pid of user orders, up since $(systemctl show -p ActiveEnterTimestamp --value orders-api)."
