"""How fast does the oracle plan, and how large are its plans?

A Zipf 1.05 stream over the full tables of Criteo Kaggle (33.8 M rows, 26 features), planned and
packed for every trainer on one core. Making the stream is not timed.

    python benchmarks/planner.py --batch-size 16384 --lookahead 200 --trainers 8
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bagpipe.batch import Cursor
from bagpipe.net.plan_codec import pack_plan, plan_bytes
from bagpipe.oracle.plan.planner import GroupPlanner, Lookups
from bagpipe.plan import BatchPlan

# fmt: off
CRITEO_KAGGLE = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652,
    2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)
# fmt: on
ALPHA = 1.05
NUM_DENSE = 13
SCATTER = 2654435761
"""Spreads popular ranks over the rows of a table, as ids in the data are."""


def zipf_batch(rng: np.random.Generator, batch_size: int) -> npt.NDArray[np.int64]:
    """Keys of one batch, example-major; the inverse of the continuous Zipf distribution function."""
    keys = np.empty((batch_size, len(CRITEO_KAGGLE)), np.int64)
    offset = 0
    for feature, rows in enumerate(CRITEO_KAGGLE):
        draw = rng.random(batch_size)
        popularity = (((rows + 1.0) ** (1 - ALPHA) - 1) * draw + 1) ** (1 / (1 - ALPHA))
        rank = np.minimum(popularity.astype(np.int64) - 1, rows - 1)
        scattered = (rank * SCATTER + feature) % rows if np.gcd(SCATTER, rows) == 1 else rank
        keys[:, feature] = scattered + offset
        offset += rows
    return keys.reshape(-1)


def memcpy_gb_per_s() -> float:
    """What copying costs here, beside which a planner's speed is to be read."""
    source, target = np.ones(8 << 20, np.int64), np.ones(8 << 20, np.int64)
    seconds = min(timed(lambda: np.copyto(target, source))[0] for _ in range(8))
    return source.nbytes / seconds / 1e9


def packed_arrays(plans: Sequence[BatchPlan]) -> list[list[Any]]:
    """What travels to each trainer."""
    return [pack_plan(plan)[1] for plan in plans]


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = action()
    return time.perf_counter() - begin, result


def measure(batch_size: int, lookahead: int, trainers: int, steps: int, warm_up: int, seed: int) -> dict[str, Any]:
    planner = GroupPlanner(num_rows=sum(CRITEO_KAGGLE), world_size=trainers, lookahead=lookahead)
    rng = np.random.default_rng(seed)
    examples = np.arange(trainers + 1, dtype=np.int64) * batch_size // trainers
    dense = np.zeros((batch_size, NUM_DENSE), np.float32)
    phases: dict[str, list[float]] = {"push": [], "plan": [], "pack": []}
    cpu: list[float] = []
    bytes_of_trainer: list[float] = []
    for step in range(lookahead + warm_up + steps):
        lookups = Lookups(zipf_batch(rng, batch_size), examples * len(CRITEO_KAGGLE), (None,) * trainers)
        cpu_begin = time.thread_time()
        push, _ = timed(partial(planner.push, lookups))
        if step < lookahead:
            continue
        plan, groups = timed(planner.plan)
        plans = [
            BatchPlan(
                step=step, rank=rank, num_examples=batch_size, first_example=int(examples[rank]), end=Cursor(),
                training=True, checkpoint=False, dense_BF=dense[examples[rank] : examples[rank + 1]],
                labels_BL=dense[examples[rank] : examples[rank + 1], :1], groups=(group,),
            )
            for rank, group in enumerate(groups)
        ]  # fmt: skip
        pack, packed = timed(partial(packed_arrays, plans))
        if step >= lookahead + warm_up:
            for name, seconds in (("push", push), ("plan", plan), ("pack", pack)):
                phases[name].append(seconds)
            cpu.append(time.thread_time() - cpu_begin)
            bytes_of_trainer += [plan_bytes(frames) for frames in packed]
    totals = [sum(parts) for parts in zip(*phases.values(), strict=True)]
    lookups_of_batch = batch_size * len(CRITEO_KAGGLE)
    return {
        "batch_size": batch_size,
        "lookahead": lookahead,
        "trainers": trainers,
        "steps": steps,
        "million_ids_per_s": round(lookups_of_batch / statistics.median(totals) / 1e6, 1),
        "million_ids_per_cpu_s": round(lookups_of_batch / statistics.median(cpu) / 1e6, 1),
        "ms_per_batch": round(statistics.median(totals) * 1e3, 2),
        "best_ms_per_batch": round(min(totals) * 1e3, 2),
        "ms_by_phase": {name: round(statistics.median(seconds) * 1e3, 2) for name, seconds in phases.items()},
        "plans_per_s": round(trainers / statistics.median(totals), 0),
        "plan_kb_per_trainer": round(statistics.mean(bytes_of_trainer) / 1e3, 1),
        "plan_mb_per_s": round(statistics.mean(bytes_of_trainer) * trainers / statistics.median(totals) / 1e6, 1),
        "hit_rate": round(planner.stats.hit_rate, 4),
        "peak_rows": max(planner.stats.peak_rows),
        "window_mb": round(planner.window_bytes / 1e6, 1),
        "tail_mb": round(4 * planner.num_rows / 1e6, 1),
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "memcpy_gb_per_s": round(memcpy_gb_per_s(), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16_384)
    parser.add_argument("--lookahead", type=int, default=200)
    parser.add_argument("--trainers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60, help="measured")
    parser.add_argument("--warm-up", type=int, default=30, help="planned before measuring")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args()
    result = measure(args.batch_size, args.lookahead, args.trainers, args.steps, args.warm_up, args.seed)
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:>24}  {value}")


if __name__ == "__main__":
    main()
