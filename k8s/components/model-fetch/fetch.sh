#!/usr/bin/env bash
# fetch.sh LIST FOLDER: every file of LIST (lines "sha256 name url") is in FOLDER on return, whole and verified.
set -euo pipefail
list=$1 folder=$2
while read -r sha256 name url; do
  case $sha256 in '' | '#'*) continue ;; esac
  target=$folder/$name part=$folder/$name.part
  if [ -e "$target" ] && sha256sum --status --check <<< "$sha256  $target"; then
    echo "$name: there already"
    continue
  fi
  echo "$name: fetching $url"
  mkdir -p "$(dirname "$target")"
  wget --continue --tries=5 --waitretry=10 --progress=dot:giga -O "$part" "$url"
  if ! sha256sum --status --check <<< "$sha256  $part"; then
    rm -f "$part"
    echo "$name: the SHA-256 differs from the one in the list; the file was thrown away" >&2
    exit 1
  fi
  # Under its own name only once it is whole: a reader never sees half a model.
  mv "$part" "$target"
  echo "$name: done"
done < "$list"
