#!/usr/bin/env bash
# A kind cluster for the end-to-end tests, in the folder $1: an audit log that the tests read, and a storage class `shared`,
# one folder on every node. `e2e.sh` has set KUBECONFIG.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
work=$1
mkdir -p "$work/audit" "$work/shared"
chmod 777 "$work/shared"
cp tools/e2e-audit.yaml "$work/audit/policy.yaml"
sed "s#WORK#$work#" tools/e2e-kind.yaml > "$work/kind.yaml"
kind create cluster --name bagpipe-e2e --config "$work/kind.yaml" --kubeconfig "$KUBECONFIG" --wait 120s ${KIND_IMAGE:+--image "$KIND_IMAGE"}

space=(--namespace local-path-storage)
each=$(kubectl "${space[@]}" get configmap local-path-config --output 'jsonpath={.data.config\.json}')
both="{\"storageClassConfigs\": {\"standard\": $each, \"shared\": {\"sharedFileSystemPath\": \"/var/local-shared\"}}}"
kubectl create configmap local-path-config "${space[@]}" --from-literal=config.json="$both" --dry-run=client --output yaml |
  kubectl patch configmap local-path-config "${space[@]}" --type merge --patch-file /dev/stdin
kubectl apply -f - <<EOF
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: shared}
provisioner: rancher.io/local-path
volumeBindingMode: Immediate
EOF
kubectl "${space[@]}" rollout restart deployment/local-path-provisioner
kubectl "${space[@]}" rollout status deployment/local-path-provisioner --timeout 120s
