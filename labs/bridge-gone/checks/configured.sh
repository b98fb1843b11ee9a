#!/bin/bash
# Some .netdev file makes the bridge, and the first .network file that matches it gives its address.
set -u
shopt -s nullglob
folder=/etc/systemd/network
netdevs=("$folder"/*.netdev) networks=("$folder"/*.network)
# What a file matches by may have a `*` of its own.
set -f

# Does a file have this line, spaces aside?
has() {
  local line
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line//[[:space:]]/}
    [ "$line" = "$2" ] && return 0
  done <"$1"
  return 1
}

# What is seen of the folder, and no more: what to write is the student's to find out.
without() {
  local files=("${netdevs[@]##*/}" "${networks[@]##*/}") names
  names=$(printf '%s, ' "${files[@]}")
  [ ${#files[@]} -gt 0 ] || names='nothing, '
  echo "After the next boot $1. In $folder there is: ${names%, }."
  exit 1
}

made=
for file in "${netdevs[@]}"; do
  has "$file" Name=br-apps && has "$file" Kind=bridge && made=${file##*/}
done
[ -n "$made" ] || without "there would be no br-apps"

for file in "${networks[@]}"; do
  while IFS= read -r line || [ -n "$line" ]; do
    case "$line" in Name=*) ;; *) continue ;; esac
    for pattern in ${line#Name=}; do
      # shellcheck disable=SC2053
      [[ br-apps == $pattern ]] || continue
      has "$file" Address=10.44.0.1/24 && { echo "$made makes the bridge, ${file##*/} gives its address."; exit 0; }
      without "br-apps would not have 10.44.0.1/24"
    done
  done <"$file"
done
without "br-apps would have no address"
