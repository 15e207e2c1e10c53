#!/usr/bin/env bash
# Prints manifests/install.yaml: the chart with its defaults, for those who do not use Helm.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
cd "$(dirname "$0")/.."
echo "# Rendered from charts/bagpipe by tools/render_install.sh; do not edit. kubectl apply --server-side -f install.yaml"
printf -- '---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: bagpipe-system\n  labels: {pod-security.kubernetes.io/enforce: restricted}\n'
helm template bagpipe charts/bagpipe --namespace bagpipe-system --skip-tests
