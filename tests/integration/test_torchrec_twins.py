"""`bagpipe.nn` equals TorchRec's own unsharded modules on CPU, in the environment of the benchmark against peers.

`make .venv-peers/.installed` makes that environment; `TORCHREC_PYTHON` names another one's Python.
"""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("TORCHREC_PYTHON", ROOT / ".venv-peers" / "bin" / "python"))

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=f"needs TorchRec: {PYTHON}; make .venv-peers/.installed")


@pytest.mark.parametrize(
    "claim",
    [
        pytest.param("pooled", id="EmbeddingBagCollection"),
        pytest.param("unpooled", id="EmbeddingCollection"),
        pytest.param("lists_of_ids", id="KeyedJaggedTensor"),
        pytest.param("dlrm", id="TorchRecs-own-DLRM"),
        pytest.param("example", id="a-model-but-for-its-imports"),
    ],
)
def test_equals_torchrec(claim: str) -> None:
    """Values to the bit, gradients and losses of several steps to rounding: see `torchrec_twins.py`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [str(PYTHON), str(Path(__file__).with_name("torchrec_twins.py")), claim]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
