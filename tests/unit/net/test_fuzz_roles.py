"""Damaged messages of a member do not end a role; `make fuzz` sends many more, to each role in each way."""

from pathlib import Path

from bagpipe.testing.fuzz_roles import fuzz_role


def test_an_oracle_outlives_what_a_trainer_garbles(tmp_path: Path) -> None:
    """The oracle as a process of its own, with CURVE, after the trainer's Hello."""
    result = fuzz_role("oracle", tmp_path / "oracle", security="curve", hello=True, frames=400, seed=5)
    assert (result.error, result.frames > 300) == ("", True), str(result)
