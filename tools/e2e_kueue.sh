#!/usr/bin/env bash
# Kueue from its release, with our jobs as an external framework; returns when its webhooks answer. $1 is a Python with PyYAML.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
: "${KUEUE:=https://github.com/kubernetes-sigs/kueue/releases/download/v0.15.0/manifests.yaml}"
kubectl apply --server-side -f "$KUEUE"
space=(--namespace kueue-system)
kubectl "${space[@]}" get configmap kueue-manager-config --output yaml | "$1" -c '
import sys, yaml
raw = yaml.safe_load(sys.stdin)
settings = yaml.safe_load(raw["data"]["controller_manager_config.yaml"])
settings.setdefault("integrations", {}).setdefault("externalFrameworks", []).append("BagpipeJob.v1alpha1.bagpipe.dev")
raw["data"]["controller_manager_config.yaml"] = yaml.safe_dump(settings)
raw["metadata"] = {key: raw["metadata"][key] for key in ("name", "namespace")}
yaml.safe_dump(raw, sys.stdout)
' | kubectl apply --server-side --force-conflicts -f -
kubectl "${space[@]}" rollout restart deployment/kueue-controller-manager
kubectl "${space[@]}" rollout status deployment/kueue-controller-manager --timeout 180s
flavor='{"apiVersion": "kueue.x-k8s.io/v1beta1", "kind": "ResourceFlavor", "metadata": {"name": "probe"}}'
for _ in $(seq 60); do
  ! echo "$flavor" | kubectl apply --dry-run=server -f - >/dev/null 2>&1 || exit 0
  sleep 2
done
echo "error: Kueue's webhooks do not answer" >&2
exit 1
