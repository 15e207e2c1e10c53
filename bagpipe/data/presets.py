"""The built-in click logs as `data.columns`: what `format: criteo-tsv` and `avazu-csv` stand for.

A job may name the format or spell these columns out; keys, dense values and labels are the same to the bit. A named
format is read by a compiled parser (`bagpipe.data.separated`) where that is at least twice as fast.
"""

from typing import Any, Literal

import msgspec

from bagpipe.config.columns import ColumnsConfig, DenseColumn, LabelColumn, SparseColumn

Preset = Literal["criteo-tsv", "avazu-csv"]
CRITEO_DENSE = tuple(f"I{i}" for i in range(1, 14))
CRITEO_SPARSE = tuple(f"C{i}" for i in range(1, 27))
AVAZU_COLUMNS = (
    *("id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category"),
    *("app_id", "app_domain", "app_category", "device_id", "device_ip", "device_model", "device_type"),
    *("device_conn_type", "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21"),
)
AVAZU_HOUR = "%y%m%d%H"


def preset_columns(preset: Preset, *, bins: bool = False) -> ColumnsConfig:
    """What a built-in format's columns are.

    Args:
        bins: of Criteo's integers, each is a categorical feature too (`numericBins: log-squared`).
    """
    if preset == "criteo-tsv":
        binned = tuple(SparseColumn(name, bins="log-squared") for name in CRITEO_DENSE if bins)
        return ColumnsConfig(
            header=("label", *CRITEO_DENSE, *CRITEO_SPARSE),
            labels=(LabelColumn("label"),),
            dense=tuple(DenseColumn(name, log1p=True) for name in CRITEO_DENSE),
            sparse=(*binned, *map(SparseColumn, CRITEO_SPARSE)),
        )
    times = tuple(SparseColumn(name, column="hour", part=name, time_format=AVAZU_HOUR) for name in ("hour", "weekday"))
    return ColumnsConfig(
        labels=(LabelColumn("click"),),
        sparse=(*times, *map(SparseColumn, AVAZU_COLUMNS[3:])),
        ignore=("id",),
    )


def columns_as_yaml(columns: ColumnsConfig) -> list[str]:
    """The section `columns` of a job, without defaults, one column a line."""
    lines = ["    columns:"]
    for field in msgspec.structs.fields(ColumnsConfig):
        value = getattr(columns, field.name)
        if value == field.default:
            continue
        if field.name in ("labels", "dense", "sparse"):
            lines.append(f"      {field.encode_name}:")
            lines += [f"        - {_flow(one)}" for one in value]
        else:
            lines.append(f"      {field.encode_name}: {_flow(value)}")
    return lines


def _flow(value: Any) -> str:
    """A value in one line of YAML; names and numbers need no quotes here."""
    if isinstance(value, msgspec.Struct):
        given = [
            (f.encode_name, getattr(value, f.name))
            for f in msgspec.structs.fields(type(value))
            if getattr(value, f.name) != f.default
        ]
        return f"{{{', '.join(f'{name}: {_flow(one)}' for name, one in given)}}}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if "%" in str(value) else str(value)
