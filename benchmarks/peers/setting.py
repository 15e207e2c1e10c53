"""One measurement's setting: who, on what links, how much work. A JSON file tells it to every process."""

from dataclasses import asdict, dataclass
from typing import Any

SERVERS = 2


@dataclass(frozen=True, slots=True)
class Setting:
    """The defaults are the workload of the comparison; a sweep changes one field."""

    contender: str
    gbit: float | None
    """Rate of each link and direction; None: unlimited."""
    trainers: int = 2
    servers: int = SERVERS
    batch: int = 2048
    """Examples of each trainer and step."""
    dim: int = 48
    alpha: float = 1.05
    lookahead: int = 100
    cache_rows: int | None = None
    """None: as many as the lookahead needs."""
    warmup: int = 10
    """Steps before the measurement; a cache also needs its lookahead to settle."""
    steps: int = 30
    lr: float = 0.01
    seed: int = 1
    clicks: str | None = None
    """Name of the examples that are repeated (`clicks.py`); None: a Zipf stream."""

    @property
    def last_step(self) -> int:
        """Steps until the measurement is over."""
        return self.warmup + self.steps

    @property
    def stream_steps(self) -> int:
        """Steps that the data holds: a lookahead must not see its end while we measure."""
        return self.last_step + self.lookahead + 8

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Setting":
        return cls(**found)
