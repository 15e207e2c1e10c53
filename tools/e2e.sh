#!/usr/bin/env bash
# End-to-end tests from nothing: a cluster (the plain kit given by $KIT, else kind), images built and loaded,
# the chart installed, tests run, everything taken away again. KEEP=1 leaves the cluster up.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${PYTHON:=python3}" "${BUILDER:=docker}" "${KIT:=}"
work=$(mktemp -d)
names=(bagpipe-server:0.1.0 bagpipe-trainer:0.1.0 bagpipe-operator:0.1.0 bagpipe-standin:3)

if [ -n "$KIT" ]; then
  KIT=$(realpath "$KIT")
  "$KIT" up
  eval "$("$KIT" env)"
  export BAGPIPE_E2E_KIT=$KIT
  down() { "$KIT" down; }
  load() { "$BUILDER" save "$1" "$work/image.tar"; "$KIT" load "$work/image.tar"; rm -f "$work/image.tar"; }
else
  kind create cluster --name bagpipe-e2e --kubeconfig "$work/kubeconfig" --wait 120s
  export KUBECONFIG=$work/kubeconfig
  down() { kind delete cluster --name bagpipe-e2e; }
  load() { kind load docker-image --name bagpipe-e2e "$1"; }
fi
finish() { [ -n "${KEEP:-}" ] || down; rm -rf "$work"; }
trap finish EXIT

make images BUILDER="$BUILDER"
for name in "${names[@]}"; do load "$name"; done
kubectl create namespace bagpipe-system
kubectl label namespace bagpipe-system pod-security.kubernetes.io/enforce=restricted
helm install bagpipe charts/bagpipe --namespace bagpipe-system --set progressSeconds=3 --wait --timeout 120s
helm test bagpipe --namespace bagpipe-system --timeout 90s
CI=${CI:-true} BAGPIPE_E2E_PYTHON=$PYTHON "$PYTHON" -m pytest -q tests/e2e
kubectl delete bagpipejobs --all --all-namespaces
helm uninstall bagpipe --namespace bagpipe-system --wait
kubectl delete crd bagpipejobs.bagpipe.dev
left=$(kubectl get clusterroles,clusterrolebindings -o name | grep bagpipe || true)
[ -z "$left" ] || { echo "left behind: $left" >&2; exit 1; }
