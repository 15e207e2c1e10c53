"""The kinds of number that settings have: each with its unit, its least and greatest value, and the reason for them.

Every number of the document is of one of these kinds, so that no setting is infinite or NaN, or so large that it
overflows where it is used. The CRD and `docs/settings.md` show the bounds. Those of tables are in `bagpipe/tables.py`,
because tables also travel between processes.
"""

from typing import Annotated, Any

from msgspec import Meta


def _kind(unit: str, because: str, **limits: Any) -> Meta:
    return Meta(**limits, extra={"because": because}, extra_json_schema={"x-unit": unit})


_DATES = "ten years: dates stay within what Kubernetes can write"
_FLOAT32 = "smaller values vanish in float32, larger ones overflow it soon"
_EXACT = "float64, which JSON readers use, holds such numbers exactly"
_MEMORY = "more fits into no machine's memory"

# Time.
Wait = Annotated[float, _kind("seconds", "sockets count milliseconds in 31 bits, 24 days", ge=0.01, le=1_000_000.0)]
Time = Annotated[int, _kind("seconds", _DATES, ge=1, le=315_360_000)]
TimeOrNone = Annotated[int, _kind("seconds", _DATES, ge=0, le=315_360_000)]

# Optimizers and models.
Rate = Annotated[float, _kind("factor", _FLOAT32, ge=1e-30, le=1e6)]
RateOrZero = Annotated[float, _kind("factor", _FLOAT32, ge=0, le=1e6)]
Fraction = Annotated[float, _kind("fraction", "a part of a whole", ge=0, lt=1)]
Share = Annotated[float, _kind("share", "for all of the data, give a path instead", gt=0, lt=1)]
Exponent = Annotated[float, _kind("exponent", "beyond it, one row takes every lookup", ge=0.01, le=100.0)]
Units = Annotated[int, _kind("units", _MEMORY, ge=1, le=1 << 20)]
Layers = Annotated[int, _kind("layers", _MEMORY, ge=1, le=1000)]
Features = Annotated[int, _kind("features", _MEMORY, ge=1, le=10_000)]
FeaturesOrNone = Annotated[int, _kind("features", _MEMORY, ge=0, le=10_000)]
PooledFeatures = Annotated[int, _kind("features", "pooling a single feature changes nothing", ge=2, le=10_000)]
Items = Annotated[int, _kind("items", _MEMORY, ge=1, le=10_000)]
Lookups = Annotated[int, _kind("lookups", _MEMORY, ge=1, le=10_000)]

# Data and steps.
Value = Annotated[float, _kind("value of the column", _EXACT, ge=-(2.0**53), le=2.0**53)]
OovRows = Annotated[int, _kind("rows", _MEMORY, ge=1, le=1 << 20)]
Examples = Annotated[int, _kind("examples", _EXACT, ge=1, le=10**12)]
Window = Annotated[int, _kind("examples", "a permutation numbers them in 31 bits", ge=1, le=2**31 - 1)]
BatchSize = Annotated[int, _kind("examples", "a step numbers its lookups in 31 bits", ge=1, le=1 << 24)]
MicroBatches = Annotated[int, _kind("parts of a batch", "a part has an example at least", ge=1, le=1 << 24)]
Occurrences = Annotated[int, _kind("occurrences", _EXACT, ge=1, le=10**12)]
Steps = Annotated[int, _kind("steps", _EXACT, ge=1, le=10**12)]
StepsOrNever = Annotated[int, _kind("steps", _EXACT, ge=0, le=10**12)]
Evaluations = Annotated[int, _kind("evaluations", "checkpoints keep the figures of each", ge=1, le=100_000)]
StepsAhead = Annotated[int, _kind("steps", "requests of all these steps are open at once", ge=1, le=10_000)]
Epochs = Annotated[int, _kind("epochs", _EXACT, ge=1, le=10**9)]
Batches = Annotated[int, _kind("batches", "the oracle holds them all in memory", ge=0, le=100_000)]
CachedRows = Annotated[int, _kind("rows", "slots are numbered in 31 bits", ge=1, le=2**31 - 1)]
Seed = Annotated[int, _kind("seed", "a signed integer of 64 bits", ge=0, le=2**63 - 1)]

# Processes.
Threads = Annotated[int, _kind("threads", "no machine has more processors", ge=0, le=4096)]
Servers = Annotated[int, _kind("processes", "a cluster's services and endpoints", ge=1, le=1000)]
Trainers = Annotated[int, _kind("processes", "a cluster's indexed job and its pods", ge=1, le=10_000)]
Port = Annotated[int, _kind("port", "TCP has no others", ge=0, le=65_535)]
Restarts = Annotated[int, _kind("restarts", "each leaves an event and a line in the log", ge=0, le=10_000)]
Checkpoints = Annotated[int, _kind("checkpoints", "each is a folder in one folder", ge=1, le=100_000)]
WholeQuantity = Annotated[int, _kind("Kubernetes quantity", _EXACT, ge=0, le=2**53)]
BrokenQuantity = Annotated[float, _kind("Kubernetes quantity", _EXACT, ge=0, le=float(2**53))]
