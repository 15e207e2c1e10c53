"""The job that Python arguments make."""

from pathlib import Path
from typing import Any

import pytest

import bagpipe
from bagpipe.errors import ConfigError
from bagpipe.interactive.document import compose
from bagpipe.interactive.user_model import NamedModel


@pytest.mark.parametrize("settings", [{}, {"test_fraction": 0.2}, {"split_by": "group"}])
def test_guesses_about_the_data_are_told(tmp_path: Path, settings: dict[str, Any]) -> None:
    """As `bagpipe init` tells them, in words of Python: which columns are left out and why, and what may be a label
    too. What the program says itself is no guess.
    """
    rows = "".join(f"u{i % 9},{i % 2},{'JN'[i % 5 > 2]},shop\n" for i in range(200))
    (tmp_path / "log.csv").write_text("user,gift,returned,shop\n" + rows)
    told: list[str] = []
    compose("fit", NamedModel({}), str(tmp_path / "log.csv"), None, None, None, settings, told.append)
    assert told[0].startswith("label: gift, which is a guess; label= names another; look like labels too: returned; ")
    assert "ignored: shop (always the same)" in told
    assert any(note.startswith("no column of times") for note in told) == (not settings)
    assert not any("--" in note or "comments" in note for note in told)


def test_a_share_of_the_data_may_be_the_test_data(tmp_path: Path) -> None:
    """As scikit-learn's `test_size`; it is the setting `test_fraction`, and a share like that one."""
    (tmp_path / "log.csv").write_text("user,gift\n" + "".join(f"u{i % 9},{i % 2}\n" for i in range(200)))

    def composed(test: float, settings: dict[str, Any]) -> float:
        path = str(tmp_path / "log.csv")
        return compose("fit", NamedModel({}), path, test, None, "gift", settings).job.spec.data.test_fraction

    assert composed(0.25, {}) == 0.25
    with pytest.raises(ConfigError, match="testFraction"):
        composed(1000, {})
    with pytest.raises(ConfigError, match=r"test: 0.25 is the share that test_fraction=0.1 is; give one"):
        composed(0.25, {"test_fraction": 0.1})


def local(**arguments: Any) -> None:
    """`bagpipe.local`, whose data is looked at when its `with` begins."""
    with bagpipe.local(**arguments):
        pass


@pytest.mark.parametrize("call", [bagpipe.fit, local])
@pytest.mark.parametrize("progress", [True, False])
def test_fit_and_local_print_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], call: Any, progress: bool
) -> None:
    """Unless nothing is to be printed."""
    (tmp_path / "log.csv").write_text("user,gift\n" + "".join(f"u{i % 9},{i % 2}\n" for i in range(200)))
    with pytest.raises(ConfigError, match="batchSize"):
        call(data=str(tmp_path / "log.csv"), batch_size=0, run_dir=tmp_path / "run", progress=progress)
    assert ("label: gift, which is a guess" in capsys.readouterr().out) == progress
