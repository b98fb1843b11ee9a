#!/bin/bash
# Some .netdev file makes the bridge, and the first .network file that matches it gives its address.
set -u
shopt -s nullglob
folder=/etc/systemd/network

# Does a file have this line, spaces aside?
has() {
  local line
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line//[[:space:]]/}
    [ "$line" = "$2" ] && return 0
  done <"$1"
  return 1
}

made=
for file in "$folder"/*.netdev; do
  has "$file" Name=br-apps && has "$file" Kind=bridge && made=${file##*/}
done
[ -n "$made" ] || { echo "No .netdev file makes a bridge br-apps."; exit 1; }

for file in "$folder"/*.network; do
  while IFS= read -r line || [ -n "$line" ]; do
    case "$line" in Name=*) ;; *) continue ;; esac
    for pattern in ${line#Name=}; do
      # shellcheck disable=SC2053
      [[ br-apps == $pattern ]] || continue
      has "$file" Address=10.44.0.1/24 && { echo "$made makes the bridge, ${file##*/} gives its address."; exit 0; }
      echo "${file##*/} is the first that matches br-apps, and it does not give it 10.44.0.1/24."
      exit 1
    done
  done <"$file"
done
echo "No .network file matches br-apps."
exit 1
