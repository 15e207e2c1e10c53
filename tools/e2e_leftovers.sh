#!/usr/bin/env bash
# Fails if the cluster still holds anything of Bagpipe: of the chart, of a job, or the CRD.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
kinds=$(kubectl api-resources --verbs=list -o name | grep -v -e '^events' -e metrics | paste -sd,)
left() {
  {
    kubectl get "$kinds" --all-namespaces --ignore-not-found -o name -l app.kubernetes.io/part-of=bagpipe
    kubectl get "$kinds" --all-namespaces --ignore-not-found -o name -l app.kubernetes.io/managed-by=bagpipe-operator
    kubectl get crd,clusterroles,clusterrolebindings,apiservices -o name | grep -i bagpipe || true
  } 2>/dev/null
}
for _ in $(seq 30); do  # Pods have a grace period.
  found=$(left)
  [ -n "$found" ] || exit 0
  sleep 2
done
echo "left behind:" >&2
echo "$found" >&2
exit 1
