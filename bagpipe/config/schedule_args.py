"""Checks the arguments of a torch schedule against its class, without torch and so before any role starts.

The list leaves out `last_epoch`, which a resume sets, and `scale_fn`, which is a function.
"""

import difflib
from collections.abc import Iterator
from typing import Any

from bagpipe.config.given import Finding

ARGUMENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ChainedScheduler": (("schedulers",), ()),
    "ConstantLR": ((), ("factor", "total_iters")),
    "CosineAnnealingLR": (("T_max",), ("eta_min",)),
    "CosineAnnealingWarmRestarts": (("T_0",), ("T_mult", "eta_min")),
    "CyclicLR": (
        ("base_lr", "max_lr"),
        (
            "step_size_up",
            "step_size_down",
            "mode",
            "gamma",
            "scale_mode",
            "cycle_momentum",
            "base_momentum",
            "max_momentum",
        ),
    ),
    "ExponentialLR": (("gamma",), ()),
    "LambdaLR": (("lr_lambda",), ()),
    "LinearLR": ((), ("start_factor", "end_factor", "total_iters")),
    "MultiStepLR": (("milestones",), ("gamma",)),
    "MultiplicativeLR": (("lr_lambda",), ()),
    "OneCycleLR": (
        ("max_lr",),
        (
            "total_steps",
            "epochs",
            "steps_per_epoch",
            "pct_start",
            "anneal_strategy",
            "cycle_momentum",
            "base_momentum",
            "max_momentum",
            "div_factor",
            "final_div_factor",
            "three_phase",
        ),
    ),
    "PolynomialLR": ((), ("total_iters", "power")),
    "SequentialLR": (("schedulers", "milestones"), ()),
    "StepLR": (("step_size",), ("gamma",)),
}
"""What each class must be given, and what else it takes (a test holds this and torch's constructors together)."""


def argument_findings(prefix: str, name: str, args: dict[str, Any]) -> Iterator[Finding]:
    """Everything that is wrong with the names of the arguments of a class, and of the schedules within it."""
    needed, others = ARGUMENTS[name]
    for argument in args:
        if argument not in needed + others:
            near = difflib.get_close_matches(argument, needed + others, 1)
            takes = f"it takes {', '.join(needed + others)}"
            yield f"{prefix}.{argument}", f"torch's {name} has none; {f'did you mean {near[0]!r}?' if near else takes}"
    for argument in needed:
        if argument not in args:
            yield prefix, f"torch's {name} needs {argument}; give it"
    if name == "OneCycleLR" and "total_steps" not in args and not {"epochs", "steps_per_epoch"} <= args.keys():
        yield prefix, "torch's OneCycleLR needs total_steps; give the job's steps"
    parts = args.get("schedulers", [])
    if not isinstance(parts, list):
        yield f"{prefix}.schedulers", f"expected a list of {{name, args}}, found {parts!r}"
        return
    for number, part in enumerate(parts):
        where = f"{prefix}.schedulers[{number}]"
        if not isinstance(part, dict) or part.get("name") not in ARGUMENTS or part.keys() - {"name", "args"}:
            yield where, f"expected {{name, args}} with a name of {', '.join(ARGUMENTS)}, found {part!r}"
        elif not isinstance(part.get("args", {}), dict):
            yield f"{where}.args", f"expected arguments by name, found {part['args']!r}"
        else:
            yield from argument_findings(f"{where}.args", part["name"], part.get("args", {}))
