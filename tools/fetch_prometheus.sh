#!/usr/bin/env bash
# Puts `prometheus` and `promtool` of Debian's package into a folder, without installing it: tools/fetch_prometheus.sh FOLDER
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
folder=${1:?a folder}
[ ! -x "$folder/promtool" ] || exit 0
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"  # apt gives up root's rights while it downloads.
(cd "$work" && { apt-get -qq download prometheus || { apt-get -qq update && apt-get -qq download prometheus; }; })
dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar -x -C "$work" ./usr/bin/prometheus ./usr/bin/promtool
mv "$work"/usr/bin/* "$folder"
