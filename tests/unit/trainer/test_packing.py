"""Packing is tried, and stays where a step is clearly shorter with it."""

import numpy as np
import pytest

from bagpipe.trainer.packing import AGAIN, BLOCK, LATEST, ORDER, TRIAL, Packing

FIRST = 5


def run(packing: Packing, steps: int, *, without: float, packed: float) -> tuple[list[bool], list[str]]:
    """How each step was sent, and what was told; a step is as long as the one before it made it."""
    sent, told = [], []
    for _ in range(steps):
        sent.append(packing.on)
        if (why := packing.step_took(packed if packing.on else without)) is not None:
            told.append(why)
    return sent, told


@pytest.mark.parametrize(
    ("without", "packed", "chosen"),
    [(0.168, 0.150, True), (0.112, 0.118, False), (0.100, 0.099, False), (0.100, 0.100, False)],
)
def test_what_is_clearly_faster_stays(without: float, packed: float, chosen: bool) -> None:
    """Both are tried as often; then the faster one, and packing only if it is worth its work."""
    packing = Packing("auto", FIRST - 1)
    sent, told = run(packing, FIRST + TRIAL, without=without, packed=packed)
    assert sent[:FIRST] == [False] * FIRST
    assert [sent[FIRST + BLOCK * number] for number in range(len(ORDER))] == list(ORDER)
    assert sum(sent) == len(ORDER) * BLOCK // 2
    assert packing.on == chosen
    (why,) = told
    ratio = f"{packed / without:.2f}"
    assert why == (
        f"packFloats auto: {'packed' if chosen else 'as they are'}; with floats packed a step took {ratio} of its time "
        f"without ({ratio} to {ratio} in 8 trials)"
    )


def test_single_long_steps_decide_nothing() -> None:
    """An evaluation or a checkpoint falls into the trial."""
    packing = Packing("auto", FIRST - 1)
    for step in range(FIRST + TRIAL):
        usual = 0.15 if packing.on else 0.17
        packing.step_took(9.0 if step % 7 == 0 else usual)
    assert packing.on


def test_a_drift_decides_nothing() -> None:
    """Steps that grow shorter and shorter by themselves look the same with packing and without."""
    packing = Packing("auto", FIRST - 1)
    for step in range(FIRST + TRIAL):
        packing.step_took(0.2 - 0.002 * step)
    assert not packing.on


@pytest.mark.parametrize(("effect", "chosen"), [(0.87, True), (0.93, True), (1.0, False), (1.06, False)])
def test_a_machine_that_others_slow_down_does_not_mislead(effect: float, chosen: bool) -> None:
    """Its speed changes by up to a third every few steps to every few dozen: seldom a wrong choice."""
    wrong = 0
    for seed in range(200):
        rng, packing = np.random.default_rng(seed), Packing("auto", FIRST - 1)
        speed, until = 1.0, 0
        for step in range(FIRST + TRIAL):
            if step == until:
                speed, until = 1 + 0.3 * rng.random(), step + int(rng.integers(5, 60))
            packing.step_took(speed * (1 + 0.05 * rng.random()) * (effect if packing.on else 1.0))
        wrong += packing.on != chosen
    assert wrong <= 4


def test_it_is_tried_again() -> None:
    """The link became slow long after the first trial."""
    packing = Packing("auto", FIRST - 1)
    run(packing, FIRST + AGAIN, without=0.1, packed=0.1)
    assert not packing.on
    _, told = run(packing, TRIAL, without=0.2, packed=0.1)
    assert packing.on
    assert len(told) == 1


def test_it_is_tried_when_caches_are_full_but_not_too_late() -> None:
    """A lookahead of thousands does not put it off for as long."""
    packing = Packing("auto", 10_000)
    sent, told = run(packing, LATEST + 1 + TRIAL, without=0.2, packed=0.1)
    assert not any(sent[: LATEST + 1])
    assert len(told) == 1


@pytest.mark.parametrize(("setting", "on"), [("always", True), ("never", False)])
def test_a_setting_is_kept(setting: str, on: bool) -> None:
    """Whatever steps take."""
    packing = Packing(setting, 0)  # type: ignore[arg-type]
    assert run(packing, TRIAL, without=0.1, packed=0.2 if on else 0.01) == ([on] * TRIAL, [])
