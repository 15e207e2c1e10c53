#!/usr/bin/env bash
# Prints manifests/install.yaml: the chart with its defaults, for those who do not use Helm.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "# Rendered from charts/bagpipe by tools/render_install.sh; do not edit. kubectl apply --server-side -f install.yaml"
printf -- '---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: bagpipe-system\n  labels: {pod-security.kubernetes.io/enforce: restricted}\n'
helm template bagpipe charts/bagpipe --namespace bagpipe-system --skip-tests
