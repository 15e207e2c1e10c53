"""Every number that can be set is finite, has a unit, and has two bounds with a reason; schema and CRD show them."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as inspection
import pytest
import yaml

from bagpipe.cli.reference import numbers
from bagpipe.config.document import Job
from bagpipe.config.load import parse_job
from bagpipe.errors import ConfigError

ROOT = Path(__file__).parents[3]
NUMBERS = list(numbers(inspection.type_info(Job)))
SMALLEST = "spec:\n  data: {format: synthetic}\n"


def bounds(number: Any) -> tuple[float | None, float | None]:
    least = number.ge if number.ge is not None else number.gt
    greatest = number.le if number.le is not None else number.lt
    return least, greatest


def test_every_number_has_two_bounds_a_unit_and_a_reason() -> None:
    """The whole document is walked: no number without a least and a greatest value, a unit and a reason."""
    assert len(NUMBERS) > 60
    for path, about, number in NUMBERS:
        least, greatest = bounds(number)
        assert least is not None and greatest is not None, path
        assert math.isfinite(least) and math.isfinite(greatest) and abs(greatest) < 2**63, path
        assert about is not None and about.extra is not None and about.extra["because"], path
        assert about.extra_json_schema and about.extra_json_schema["x-unit"], path


def test_every_wait_can_be_counted_in_milliseconds() -> None:
    """Sockets take waits as milliseconds in a signed integer of 32 bits."""
    waits = [n for path, _, n in NUMBERS if path.startswith("spec.transport.") and path.endswith("Seconds")]
    assert len(waits) == 4
    assert all(n.ge * 1000 >= 1 and n.le * 1000 < 2**31 for n in waits)


SETTABLE = [
    (path.removeprefix("spec."), number)
    for path, _, number in NUMBERS
    if "[]" not in path and "{}" not in path and "volumeClaim" not in path and "run" not in path
]


@pytest.mark.parametrize(("path", "number"), SETTABLE, ids=[path for path, _ in SETTABLE])
def test_what_is_beyond_a_bound_or_not_finite_is_refused(path: str, number: Any) -> None:
    """Just beyond either bound, not finite, or beyond 64 bits: one line that names the setting and the override."""
    least, greatest = bounds(number)
    step = 1 if isinstance(number, inspection.IntType) else 1e-6
    assert least is not None and greatest is not None
    below = least - max(step, abs(least) * 1e-3)
    beyond = greatest + max(step, greatest * 1e-3) if greatest < 2**53 else 2**63
    for value in (below, beyond, ".inf", "-.inf", ".nan", "1e400", 2**63, -(2**63) - 1, "9" * 5000):
        with pytest.raises(ConfigError) as caught:
            parse_job(SMALLEST, "job.yaml", [f"{path}={value}"])
        message = str(caught.value)
        assert message.startswith(f"--set {path}=")
        assert "\n" not in message
        assert len(message) < 400


def test_a_number_in_free_form_parts_is_finite_too() -> None:
    """A model's own arguments and Kubernetes' own parts are read by the same reader."""
    for override in ("model.args.x=.nan", "trainers.podTemplate.spec.x=1e999", "model.args={x: .inf}"):
        with pytest.raises(ConfigError, match=r"finite|range"):
            parse_job(SMALLEST, "job.yaml", [override])


def schema_numbers(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of a number in a JSON schema."""
    if isinstance(node, dict):
        if node.get("type") in ("integer", "number"):
            yield path, node
        for key, inner in node.items():
            yield from schema_numbers(inner, f"{path}.{key}")
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            yield from schema_numbers(inner, f"{path}[{index}]")


def test_the_json_schema_shows_both_bounds() -> None:
    """Who generates forms or checks from the schema sees the same bounds."""
    schema = json.loads(msgspec.json.encode(msgspec.json.schema(Job)))
    found = list(schema_numbers(schema))
    assert len(found) > 60
    for path, node in found:
        assert {"minimum", "exclusiveMinimum"} & set(node), path
        assert {"maximum", "exclusiveMaximum"} & set(node), path


def test_the_crd_shows_both_bounds_and_the_unit() -> None:
    """An API server refuses what is out of bounds; only 2^63 - 1 itself is left to the format int64."""
    crd = yaml.safe_load((ROOT / "charts" / "bagpipe" / "files" / "crd.yaml").read_text(encoding="utf-8"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    found = list(schema_numbers(spec))
    assert len(found) > 50
    for path, node in found:
        assert "minimum" in node, path
        assert "maximum" in node or (path.endswith(".seed") and node["format"] == "int64"), path
        assert "Unit: " in node["description"], path
    for name in ("lookahead", "cacheRows"):
        rule = spec["properties"][name]["x-kubernetes-validations"][0]["rule"]
        assert ">=" in rule and "<=" in rule, name


def test_a_number_without_bounds_is_found() -> None:
    """The walk bites: a plain int anywhere in a document is reported without bounds."""

    class Careless(msgspec.Struct):
        jobs: list[Job]
        count: int | None = None

    found = {path: bounds(number) for path, _, number in numbers(inspection.type_info(Careless))}
    assert found["count"] == (None, None)
    assert found["jobs[].spec.batchSize"] == (1, 1 << 24)
