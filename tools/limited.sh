#!/usr/bin/env bash
# Run a command in a network namespace of its own, whose loopback carries no more than a given rate, all traffic
# together:   tools/limited.sh 1gbit COMMAND...     Needs root, `ip` and `tc`; nothing is left afterwards.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
[ $# -ge 2 ] || { echo "usage: $0 RATE COMMAND..., for instance $0 1gbit make demo" >&2; exit 78; }
exec unshare --net bash -euc '
  rate=$1; shift
  ip link set lo up
  tc qdisc add dev lo root tbf rate "$rate" burst 262144 limit 16000000
  exec "$@"
' limited "$@"
