"""Settings as programs have them: numpy's numbers, arrays, tensors, paths; what no process could read is named."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import bagpipe
from bagpipe.config import overrides, yaml_lines
from bagpipe.errors import ConfigError
from bagpipe.interactive.document import compose, model_of
from bagpipe.interactive.run import overrides_of
from bagpipe.interactive.settings import functions_named, spec_of


def test_numbers_and_lists_of_other_libraries_are_pythons_own() -> None:
    """They ended in a traceback of the encoder, or as an unknown setting."""
    spec = spec_of(
        {
            "batch_size": np.int64(64),
            "trainers": np.int32(2),
            "seed": torch.tensor(7),
            "test_fraction": np.float64(0.1),
            "model": {"bottom_mlp": np.array([8, 4]), "task_weights": torch.tensor([1.0, 0.5])},
        }
    )
    assert spec["batchSize"] == 64 and type(spec["batchSize"]) is int
    assert spec["trainers"] == {"replicas": 2} and spec["seed"] == 7 and spec["data"] == {"testFraction": 0.1}
    assert spec["model"] == {"bottomMlp": [8, 4], "taskWeights": [1.0, 0.5]}


def test_columns_and_arguments_of_a_model_too() -> None:
    """An index of pandas, an array of names; a path and a number of numpy for a constructor."""
    columns = {"labels": pd.Index(["y"]), "sparse": np.array(["a", "b"])}
    named = model_of("package.module:Class", {"file": Path("weights.pt"), "width": np.int64(3)})
    job = compose("n", named, "rows.parquet", None, columns, None, {}).job
    assert job.spec.data.columns is not None and [one.name for one in job.spec.data.columns.sparse] == ["a", "b"]
    assert job.spec.model.args == {"file": "weights.pt", "width": 3}


def test_the_order_of_a_set_is_the_same_in_every_process() -> None:
    """A set has another order in each process; features have one, so the same script made other jobs of it."""
    names = {f"column_{number}" for number in range(40)}
    columns = {"labels": ["y"], "sparse": names}
    job = compose("n", model_of(None, {}), "rows.parquet", None, columns, None, {}).job
    assert job.spec.data.columns is not None
    assert [one.name for one in job.spec.data.columns.sparse] == sorted(names)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"optimizer": torch.optim.Adam}, r"optimizer: .* found Adam; a job names what it uses"),
        ({"batch_size": functools.partial(int)}, r"batch_size: expected a number, .* found a partial"),
    ],
)
def test_what_no_other_process_could_read_is_refused_by_its_argument(settings: dict[str, Any], match: str) -> None:
    """One line names the argument, and says what to give."""
    with pytest.raises(ConfigError, match=match):
        spec_of(settings)


def half(step: int) -> float:
    return 0.5**step


def share(labels: Any, scores: Any, weights: Any, groups: Any) -> float:
    return float(np.mean(scores > 0.5))


def test_functions_are_given_as_they_are() -> None:
    """Where a setting takes the import path of a function, a program gives the function, and its name for a figure."""
    settings = {
        "evaluation": {"metrics": ["auc", share], "early_stopping": {"metric": share}},
        "checkpoint": {"best": share},
        "optimizer": {"schedule": {"name": "LambdaLR", "args": {"lr_lambda": half}}},
        "batch_size": 3,
    }
    named, modules = functions_named(settings)
    assert modules == {} and named == {
        "evaluation": {"metrics": ["auc", f"{__name__}:share"], "early_stopping": {"metric": "share"}},
        "checkpoint": {"best": "share"},
        "optimizer": {"schedule": {"name": "LambdaLR", "args": {"lr_lambda": f"{__name__}:half"}}},
        "batch_size": 3,
    }
    with_entrypoint = model_of({"entrypoint": torch.nn.Linear, "loss": "mse"}, {"bias": False})
    assert with_entrypoint.section == {
        "entrypoint": "torch.nn.modules.linear:Linear", "loss": "mse", "args": {"bias": False},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"evaluation": {"metrics": [lambda *_: 0.0]}}, r"evaluation.metrics\[0\]: a lambda has no name .* with def"),
        ({"optimizer": {"schedule": {"args": {"lr_lambda": functools.partial(half)}}}}, "lr_lambda: a partial has no"),
        ({"evaluation": {"metrics": half}}, r"metrics: expected a function of .*, found one of \(step: int\)"),
        ({"evaluation": {"metrics": max}}, "metrics: max belongs to builtins, which has no file; put the function"),
    ],
)
def test_functions_without_a_name_are_refused_by_their_setting(settings: dict[str, Any], match: str) -> None:
    """One line names the setting, and says what to write instead."""
    with pytest.raises(ConfigError, match=match):
        functions_named(settings)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: bagpipe.Run(5), "Run: expected a path on this machine, found 5"),  # type: ignore[arg-type]
        (lambda: bagpipe.local(5), "job: expected a path on this machine, found 5"),  # type: ignore[arg-type]
        (lambda: bagpipe.Run("s3://b/run"), "Run: expected a path on this machine, found 's3://b/run'"),
        (lambda: bagpipe.fit("dlrm", data="rows.csv", run_dir=5), "run_dir: expected a path"),  # type: ignore[arg-type]
        (lambda: bagpipe.fit("dlrm", data="rows.csv", model_args=[1]), "model_args: expected a dict"),  # type: ignore[arg-type]
        (lambda: compose("n", model_of(None, {}), None, None, None, None, {}), "data: missing; give rows, a path"),
        (
            lambda: compose("n", model_of(None, {}), "rows.csv", None, None, ["y", "z"], {}),  # type: ignore[arg-type]
            r"label: expected the name of one column, found \['y', 'z'\]; name several in columns",
        ),
    ],
)
def test_arguments_of_another_type_are_one_line(call: Callable[[], Any], match: str) -> None:
    """Each ended in a `TypeError` of a library below, or looked for a file called None."""
    with pytest.raises(ConfigError, match=match):
        call()


def test_settings_of_oddly_named_columns_reach_their_columns() -> None:
    """As `evaluate`, `resume` and `local` hand them on: a dot led into another section, and `007` was feature 7."""
    names = ["user.id", "a b", "007", "7", "größe", 'a "b"', "it's", "x=1", "t[0]", "*", "user_id"]
    spec = {"embedding": {"pooling": dict.fromkeys(names, "mean")}, "data": {"oov": {"user.id": 3, "*": 4}}}
    document = yaml_lines.parse("spec: {}", "the job")
    overrides.apply(document, [overrides.parse_override(one) for one in overrides_of(spec)])
    assert document.value == {"spec": spec}
