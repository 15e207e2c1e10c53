"""Writes the CRD of `BagpipeJob` from `bagpipe/config/document.py`: one source.

    python tools/generate_crd.py            writes charts/bagpipe/files/crd.yaml
    python tools/generate_crd.py --check    fails if it would change (as `tests/contract` does)

msgspec gives JSON Schema; Kubernetes wants a structural one: no references, no unions of types, no
null but `nullable`. What a schema cannot say is said in CEL: immutability while the job runs, names
that would overflow, one-of, cross-field rules.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from crd_status import Schema, columns, status

from bagpipe.config.document import API_VERSION, KIND, Job

TARGET = Path(__file__).parent.parent / "charts" / "bagpipe" / "files" / "crd.yaml"
GROUP, VERSION = API_VERSION.split("/")

MAX_NAME = 40
RESERVED_ENV = ("BAGPIPE_CURVE_DIR", "BAGPIPE_TOKEN", "JOB_COMPLETION_INDEX", "POD_INDEX", "POD_NAME")

# Bounds that only the API server needs: it estimates the cost of CEL rules by them.
BOUNDS: dict[str, Schema] = {
    "allRoles.env": {"maxItems": 100},
    "oracle.env": {"maxItems": 100},
    "servers.env": {"maxItems": 100},
    "trainers.env": {"maxItems": 100},
}
# Written into every object, as `kubectl scale` and the columns need them to be there.
DEFAULTS: dict[str, Any] = {
    "servers": {},
    "servers.replicas": 1,
    "trainers": {},
    "trainers.replicas": 1,
    "runPolicy": {},
    "runPolicy.suspend": False,
}
# May change at any time; everything else only while the job is suspended.
MUTABLE = ("runPolicy", "trainers")


def structural(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    """One JSON Schema node as Kubernetes wants it."""
    description = _described(schema)
    if "$ref" in schema:
        target = definitions[schema["$ref"].rsplit("/", 1)[-1]]
        schema = {**target, **({"description": description} if description else {})}
    result = _union(schema, definitions, path) if "anyOf" in schema else _plain(schema, definitions, path)
    if description or schema.get("description"):
        about = description or schema["description"]
        result = {"description": about, **{k: v for k, v in result.items() if k != "description"}}
    result |= BOUNDS.get(path, {})
    if path in DEFAULTS:
        result["default"] = DEFAULTS[path]
    return result


def _described(schema: Mapping[str, Any]) -> str | None:
    """The description of a setting, with the unit of a number in it."""
    description: str | None = schema.get("description")
    unit = next((o["x-unit"] for o in (schema, *schema.get("anyOf", ())) if "x-unit" in o), None)
    return f"{description or ''} Unit: {unit}.".strip() if unit else description


def _plain(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    kind = schema.get("type", "string" if "enum" in schema else None)
    if kind is None:
        return {"x-kubernetes-preserve-unknown-fields": True}
    result: Schema = {"type": kind}
    for name in ("enum", "pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum"):
        if name in schema and not (
            name == "maximum" and schema[name] > 2**53
        ):  # Beyond what a JSON number holds: int64 says it.
            result[name] = list(schema[name]) if name == "enum" else schema[name]
    for end in ("Minimum", "Maximum"):
        if f"exclusive{end}" in schema:
            result |= {end.lower(): schema[f"exclusive{end}"], f"exclusive{end}": True}
    if kind == "integer":
        result["format"] = "int64"
    if kind == "array":
        result["items"] = structural(schema.get("items", {}), definitions, f"{path}[]")
    if kind == "object":
        result |= _object(schema, definitions, path)
    return result


def _object(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    if "properties" not in schema:
        values = schema.get("additionalProperties")
        if isinstance(values, Mapping) and values:
            return {"additionalProperties": structural(values, definitions, f"{path}{{}}")}
        return {"x-kubernetes-preserve-unknown-fields": True}
    result: Schema = {
        "properties": {
            k: structural(v, definitions, f"{path}.{k}".lstrip(".")) for k, v in schema["properties"].items()
        }
    }
    required = list(schema.get("required", ()))
    return {**result, "required": required} if required else result


def _union(schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    options = [o for o in schema["anyOf"] if o.get("type") != "null"]
    nullable = {"nullable": True} if len(options) < len(schema["anyOf"]) else {}
    if len(options) == 1:
        return structural(options[0], definitions, path) | nullable
    words = [o for o in options if "enum" in o]
    numbers = [o for o in options if o.get("type") == "integer"]
    if len(options) == 2 and words and numbers:
        allowed = ", ".join(repr(w) for w in words[0]["enum"])
        least, most = numbers[0]["minimum"], numbers[0]["maximum"]
        rule = f"type(self) == int ? self >= {least} && self <= {most} : self in [{allowed}]"
        message = f"must be a whole number from {least} to {most}, or one of {allowed}"
        return {"x-kubernetes-int-or-string": True, "x-kubernetes-validations": [{"rule": rule, "message": message}]}
    return {"x-kubernetes-preserve-unknown-fields": True}


def _rule(rule: str, message: str) -> Schema:
    return {"rule": rule, "message": message}


def _same(field: str) -> str:
    return f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"


_CHECKPOINT_CLAIM = "has({0}.checkpoint) && has({0}.checkpoint.volumeClaim)"


def rules(spec: Schema) -> None:
    """CEL rules, put where they are cheapest."""
    held = "oldSelf.runPolicy.suspend"
    validations = [
        _rule(f"{held} || ({_same(name)})", f"{name} cannot change while the job runs; suspend it first")
        for name in spec["properties"]
        if name not in MUTABLE
    ]
    validations += [
        _rule(
            f"{held} || ({_same('trainers.' + name)})",
            f"trainers.{name} cannot change while the job runs; suspend it first",
        )
        for name in spec["properties"]["trainers"]["properties"]
        if name != "replicas"
    ]
    validations.append(
        _rule(
            "!has(self.batchSize) || self.batchSize >= self.trainers.replicas",
            "batchSize must give each trainer at least one example",
        )
    )
    validations += [
        _rule(_same("servers.volumeClaim"), "servers.volumeClaim cannot change: its claims exist; make a new job"),
        _rule(
            f"({_CHECKPOINT_CLAIM.format('self')}) == ({_CHECKPOINT_CLAIM.format('oldSelf')})",
            "checkpoint.volumeClaim cannot be added or removed: make a new job",
        ),
    ]
    spec["x-kubernetes-validations"] = validations
    spec["properties"]["checkpoint"]["properties"]["volumeClaim"]["x-kubernetes-validations"] = [
        *(
            _rule(_same(name), f"{name} cannot change: the claim exists; make a new job")
            for name in ("size", "storageClassName", "accessMode")
        ),
        _rule(
            "!has(oldSelf.retain) || !oldSelf.retain || (has(self.retain) && self.retain)",
            "a claim that is to be kept stays kept: delete it by hand",
        ),
    ]
    model = spec["properties"]["model"]
    model["x-kubernetes-validations"] = [
        _rule("!(has(self.name) && has(self.entrypoint))", "give name or entrypoint, not both")
    ]
    policy = spec["properties"]["runPolicy"]
    policy["x-kubernetes-validations"] = [
        _rule(_same("managedBy"), "managedBy cannot change"),
        _rule(_same("operatorClass"), "operatorClass cannot change"),
        *(
            _rule(f"oldSelf.suspend || ({_same(name)})", f"{name} cannot change under a job; suspend it first")
            for name in ("queueName", "gang", "jobClass")
        ),
    ]
    reserved = ", ".join(repr(name) for name in RESERVED_ENV)
    for section in ("allRoles", "oracle", "servers", "trainers"):
        items = spec["properties"][section]["properties"]["env"]["items"]
        items["x-kubernetes-validations"] = [
            _rule(f"!(self.name in [{reserved}])", "this variable belongs to the operator; choose another name"),
            _rule("!(has(self.value) && has(self.valueFrom))", "give value or valueFrom, not both"),
        ]


def _rules_of_the_object() -> list[Schema]:
    """What a schema of the specification cannot say: about the name, and about a job that has ended."""
    return [
        _rule(
            f"self.metadata.name.size() <= {MAX_NAME}",
            f"the name may have {MAX_NAME} characters: those of its pods are made from it",
        ),
        _rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "the name must be a DNS label that starts with a letter",
        ),
        _rule(
            "!has(oldSelf.status) || !has(oldSelf.status.completionTime) || self.spec == oldSelf.spec",
            "the job has ended: nothing that is changed now takes effect; make a new job",
        ),
    ]


def crd() -> Schema:
    """The whole CustomResourceDefinition."""
    generated = msgspec.json.schema(Job)
    definitions = generated["$defs"]
    spec = structural(definitions["JobSpec"], definitions, "")
    rules(spec)
    schema = {
        "description": "A training job of a recommendation model: an oracle, embedding servers and trainers.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status(),
        },
        "x-kubernetes-validations": _rules_of_the_object(),
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.trainers.replicas",
                "statusReplicasPath": ".status.trainerReplicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": columns(),
        "schema": {"openAPIV3Schema": schema},
    }
    plural = f"{KIND.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": plural,
                "singular": KIND.lower(),
                "shortNames": ["bpj"],
                "categories": ["all"],
            },
            "versions": [version],
        },
    }


def render() -> str:
    head = "# Generated by tools/generate_crd.py from bagpipe/config/document.py; do not edit.\n"
    return head + yaml.safe_dump(crd(), sort_keys=False, width=200, allow_unicode=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the file is not what would be written")
    if parser.parse_args().check:
        if TARGET.read_text() == render():
            return 0
        print(f"{TARGET} differs from bagpipe/config/document.py; run python tools/generate_crd.py", file=sys.stderr)
        return 1
    TARGET.write_text(render())
    return 0


if __name__ == "__main__":
    sys.exit(main())
