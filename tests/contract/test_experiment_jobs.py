"""What an experiment submits, the API server accepts: checked against the schema of the custom resource."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bagpipe.config.load import dump_job
from bagpipe.experiment import suite

ROOT = Path(__file__).resolve().parents[2]
CRD = yaml.safe_load((ROOT / "charts" / "bagpipe" / "files" / "crd.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
KINDS = {"string": str, "integer": int, "boolean": bool, "object": dict, "array": list, "number": (int, float)}


def complaints(value: Any, schema: dict, path: str) -> list[str]:
    """What a structural schema has against a value: unknown keys, types, null, enums, bounds, patterns."""
    if value is None:
        # The API server looks for it among the words even where it is allowed.
        return [] if schema.get("nullable") and "enum" not in schema else [f"{path}: null"]
    if schema.get("x-kubernetes-int-or-string"):
        return [] if isinstance(value, int | str) else [f"{path}: {value!r}"]
    kind = schema.get("type")
    wrong = kind and (not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "boolean"))
    if wrong or ("enum" in schema and value not in schema["enum"]):
        return [f"{path}: {value!r}"]
    found = []
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{path}: {value!r} against {schema['pattern']}")
    if isinstance(value, list):
        found += [c for i, v in enumerate(value) for c in complaints(v, schema["items"], f"{path}[{i}]")]
    if isinstance(value, dict):
        known, free = schema.get("properties", {}), schema.get("additionalProperties")
        for key, inner in value.items():
            if key in known:
                found += complaints(inner, known[key], f"{path}.{key}")
            elif isinstance(free, dict):
                found += complaints(inner, free, f"{path}.{key}")
            elif not schema.get("x-kubernetes-preserve-unknown-fields"):
                found.append(f"{path}.{key}: unknown")
        found += [f"{path}.{key}: missing" for key in schema.get("required", ()) if key not in value]
    return found


@pytest.mark.parametrize("scale", ["paper", "small"])
@pytest.mark.parametrize("model", suite.MODELS)
def test_the_resource_has_room_for_every_job(model, scale):
    """Each job, with the cache, without it and as warm-up, with every default written out as it is submitted."""
    planned = suite.cases({model: suite.job_document(model, scale)}, suite.VARIANTS, (), "six-1231-235959")
    for case in (*planned, *suite.warm_ups(planned, 5)):
        document = yaml.safe_load(dump_job(case.job))
        assert complaints(document["spec"], SCHEMA["properties"]["spec"], "spec") == []
        assert len(case.name) <= 40


def test_the_check_finds_mistakes():
    """The check itself refuses what the API server would refuse."""
    document = yaml.safe_load(dump_job(suite.cases(
        {"dlrm": suite.job_document("dlrm", "small")}, ["cached"], (), "six")[0].job))  # fmt: skip
    spec = document["spec"] | {"steps": "many", "colour": "red", "batchSize": None}
    assert len(complaints(spec, SCHEMA["properties"]["spec"], "spec")) == 3
