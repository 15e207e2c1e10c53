#!/usr/bin/env bash
# TorchRec's environment in $HOME/torchrec (or $1). DEVICE=cpu installs the CPU build of its kernels.
# torchrec requires the package fbgemm-gpu by name, whatever the device, hence --no-deps.
set -euo pipefail
target=${1:-$HOME/torchrec}
torch=torch==2.13.0
test -x "$target/bin/python" || python3 -m venv "$target"
pip="$target/bin/pip --disable-pip-version-check --quiet"
$pip install "$torch" numpy
$pip install --no-deps torchrec==1.8.0
if [ "${DEVICE:-cuda}" = cpu ]; then kernels=fbgemm-gpu-cpu==1.8.0; else kernels=fbgemm-gpu==1.8.0; fi
$pip install "$kernels" pyre-extensions tensordict torchmetrics==1.0.3 tqdm "$torch"
