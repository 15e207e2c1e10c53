#!/usr/bin/env bash
# End-to-end tests from nothing: a cluster, images built and loaded, the chart installed, tests run, everything taken
# away again. KEEP=1 leaves the cluster up.
#
#   KIT=path      a script that brings a cluster up, loads images, adds Kueue and stops machines; none: kind and Docker
#   BUILDER=path  builds and saves images as `docker build` and `docker save` do
#   ARGS=...      further arguments for pytest
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
cd "$(dirname "$0")/.."
: "${PYTHON:=python3}" "${BUILDER:=docker}" "${KIT:=}" "${ARGS:=}"
work=$(mktemp -d)
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' bagpipe/__init__.py)
names=(bagpipe-server:$version bagpipe-trainer:$version bagpipe-operator:$version bagpipe-standin:4 bagpipe-store:1)
finish() { [ -n "${KEEP:-}" ] || { down || true; rm -rf "$work"; }; }  # A kept cluster reads its audit policy again.
say() { echo "== $(date +%T) $*"; }

if [ -n "$KIT" ]; then
  KIT=$(realpath "$KIT")
  down() { "$KIT" down; }
  load() { "$BUILDER" save "$1" "$work/image.tar"; "$KIT" load "$work/image.tar" >/dev/null; rm -f "$work/image.tar"; }
  kueue() { "$KIT" addon kueue; }
  trap finish EXIT
  "$KIT" down 2>/dev/null || true
  cp tools/e2e-audit.yaml "$work/audit.yaml"
  "$KIT" up --apiserver-arg=--audit-policy-file="$work/audit.yaml" --apiserver-arg=--audit-log-path="$work/audit.log" \
    --apiserver-arg=--audit-log-mode=blocking
  eval "$("$KIT" env)"
  export BAGPIPE_E2E_MACHINES="kit $KIT" BAGPIPE_E2E_AUDIT=$work/audit.log
else
  for tool in kind docker kubectl helm; do
    command -v "$tool" >/dev/null || { echo "error: make e2e needs $tool (or KIT=, a script that brings a cluster up)" >&2; exit 1; }
  done
  down() { kind delete cluster --name bagpipe-e2e; }
  load() { kind load docker-image --name bagpipe-e2e "$1"; }
  kueue() { tools/e2e_kueue.sh "$PYTHON"; }
  trap finish EXIT
  export KUBECONFIG=$work/kubeconfig BAGPIPE_E2E_MACHINES=kind BAGPIPE_E2E_AUDIT=$work/audit/audit.log
  tools/e2e_kind.sh "$work"
fi

say "images"
[ "$BUILDER" = docker ] || "$BUILDER" up  # An engine of its own.
make images BUILDER="$BUILDER"
for name in "${names[@]}"; do load "$name"; done

say "chart"
kubectl create namespace bagpipe-system
kubectl label namespace bagpipe-system pod-security.kubernetes.io/enforce=restricted
helm install bagpipe charts/bagpipe --namespace bagpipe-system --set progressSeconds=1 --wait --timeout 120s
helm test bagpipe --namespace bagpipe-system --timeout 90s

say "tests"  # All of them, whichever fail; the end says whether any did.
failed=0
export BAGPIPE_E2E_PYTHON=$PYTHON
PATH=$("$PYTHON" -c 'import os, sys; print(os.path.dirname(sys.executable))')/prometheus:$PATH
command -v prometheus >/dev/null && command -v promtool >/dev/null || tools/fetch_prometheus.sh "${PATH%%:*}"
# shellcheck disable=SC2086
[ -n "$ARGS" ] || "$PYTHON" -m pytest -q tests/chart || failed=1  # helm is at hand now
# shellcheck disable=SC2086
"$PYTHON" -m pytest -v --durations=12 --ignore tests/e2e/test_kueue.py --ignore tests/e2e/test_gangs.py tests/e2e $ARGS || failed=1

if [ -z "$ARGS" ]; then
  say "Kueue and gangs"
  kueue
  kubectl apply --server-side -f tests/e2e/podgroups.yaml
  helm upgrade bagpipe charts/bagpipe --namespace bagpipe-system \
    --set 'progressSeconds=1,kueue.enabled=true,gangSchedulers={Coscheduling,Volcano}' --wait --timeout 120s
  BAGPIPE_E2E_KUEUE=1 BAGPIPE_E2E_GANGS=1 "$PYTHON" -m pytest -v tests/e2e/test_kueue.py tests/e2e/test_gangs.py \
    tests/e2e/test_operator.py::test_permissions_are_exactly_what_was_used || failed=1
fi

say "uninstalling"
kubectl delete bagpipejobs --all --all-namespaces --wait
helm uninstall bagpipe --namespace bagpipe-system --wait
kubectl delete crd bagpipejobs.bagpipe.dev
tools/e2e_leftovers.sh
say "nothing of Bagpipe is left in the cluster"
[ "$failed" = 0 ] || { echo "error: some tests failed; they are named above" >&2; exit 1; }
