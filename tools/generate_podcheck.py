"""Writes `bagpipe/client/podcheck/fields.py`: the fields of Kubernetes' pods, by type.

    python tools/generate_podcheck.py            writes it
    python tools/generate_podcheck.py --check    fails if it would change (as `tests/contract` does)

The fields are those of the models in the installed `kubernetes` package. These tell names, types and what is required,
but not the width of numbers, nor which texts are quantities, and not all that the API server asks for: these lists are
from the API reference of pods, and from the API server's own validation.
"""

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "bagpipe" / "client" / "podcheck" / "fields.py"

LONG = frozenset(
    [
        "deletionGracePeriodSeconds",
        "generation",
        "activeDeadlineSeconds",
        "terminationGracePeriodSeconds",
        "seconds",
        "runAsGroup",
        "runAsUser",
        "fsGroup",
        "supplementalGroups",
        "tolerationSeconds",
        "expirationSeconds",
    ]
)
"""Numbers of 64 bits; all others have 32."""
QUANTITIES = frozenset({"overhead", "limits", "requests", "sizeLimit", "divisor"})
NOT_ASKED_FOR = frozenset(
    {
        "HTTPHeader.value",
        "Sysctl.value",
        "ISCSIVolumeSource.lun",
        "SleepAction.seconds",
        "PreferredSchedulingTerm.preference",
    }
)
"""Said to be required, but the API server takes them to be empty or 0 where they are left out."""
ASKED_FOR = frozenset(
    [
        "ConfigMapVolumeSource.name",
        "SecretVolumeSource.secretName",
        "ConfigMapKeySelector.name",
        "SecretKeySelector.name",
        "ConfigMapEnvSource.name",
        "SecretEnvSource.name",
        "ConfigMapProjection.name",
        "SecretProjection.name",
        "Container.image",
        "ExecAction.command",
        "EphemeralVolumeSource.volumeClaimTemplate",
        "PersistentVolumeClaimSpec.accessModes",
    ]
)
"""Not said to be required, but the API server refuses a pod template without them."""
SCALARS = {"str": "string", "int": "int", "bool": "bool", "object": "any", "datetime": "string", "float": "any"}
LEFT_OUT = frozenset({"managedFields"})


def coded(kind: str, field: str) -> str:
    """A field's type in the words of `fields.py`."""
    if found := re.fullmatch(r"list\[(.*)\]", kind):
        return f"[]{coded(found[1], field)}"
    if found := re.fullmatch(r"dict\[str, (.*)\]", kind):
        return f"{{}}{coded(found[1], field)}"
    if field in QUANTITIES and kind == "str":
        return "quantity"
    if field == "port" and kind == "object":
        return "port"
    if kind == "int":
        return "long" if field in LONG else "int"
    return SCALARS.get(kind) or bare(kind)


def bare(kind: str) -> str:
    """A model's name as Kubernetes writes it: without the version."""
    return re.sub(r"^(V1|Core)+", "", kind)


def fields_of(model: Any) -> Iterator[str]:
    """`name=type` of each field, with `!` if it is required."""
    for attribute, field in sorted(model.attribute_map.items(), key=lambda pair: pair[1]):
        if field not in LEFT_OUT:
            setter = inspect.getsource(getattr(model, attribute).fset)
            name = f"{bare(model.__name__)}.{field}"
            asked = name in ASKED_FOR or ("must not be `None`" in setter and name not in NOT_ASKED_FOR)
            required = "!" if asked else ""
            yield f"{field}={coded(model.openapi_types[attribute], field)}{required}"


def reached(first: str) -> dict[str, Any]:
    """The models that a model contains, by their own names, itself included."""
    found: dict[str, Any] = {}
    todo = [first]
    while todo:
        kind = todo.pop()
        inner = re.fullmatch(r"(?:list\[|dict\[str, )(.*)\]", kind)
        if inner:
            todo.append(inner[1])
        elif kind not in SCALARS and kind not in found:
            found[kind] = model = getattr(kubernetes.client, kind)
            todo += [model.openapi_types[a] for a, f in model.attribute_map.items() if f not in LEFT_OUT]
    return found


def table() -> str:
    """The module with the fields."""
    minor = kubernetes.__version__.split(".")[0]
    lines = [
        '"""Fields of Kubernetes\' pods, by type. Written by `python tools/generate_podcheck.py`."""',
        "",
        f'KUBERNETES = "1.{minor}"',
        '"""The release whose fields these are."""',
        "",
        'FIELDS = """',
    ]
    for kind, model in sorted(reached("V1PodTemplateSpec").items(), key=lambda pair: bare(pair[0])):
        text = f"{bare(kind)}: {' '.join(fields_of(model))}".strip()
        lines += textwrap.wrap(text, 116, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    about = '"""A type a paragraph: `field=type`, `[]` of a list, `{}` of a map of texts, `!` of what is required."""'
    return "\n".join([*lines, '"""', about, ""])


def main() -> int:
    """Write the module, or tell that it is not as it should be."""
    parser = argparse.ArgumentParser(description="Write the fields of Kubernetes' pods.")
    parser.add_argument("--check", action="store_true", help="only fail if the file would change")
    made = table()
    if not parser.parse_args().check:
        TARGET.write_text(made, encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != made:
        print(f"{TARGET.relative_to(ROOT)}: not as `python tools/generate_podcheck.py` writes it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
