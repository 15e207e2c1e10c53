"""The stages of an attempt, as the oracle's conversation goes through them."""

from dataclasses import dataclass

from bagpipe.net.messages import NoMorePlans


@dataclass(frozen=True, slots=True)
class Preparing:
    """The oracle reads its data; the roles that are there wait."""


@dataclass(frozen=True, slots=True)
class Gathering:
    """The data is ready, roles are missing."""

    since: float


@dataclass(frozen=True, slots=True)
class Streaming:
    """Plans go out, from `first_step` on."""

    first_step: int
    evaluation: bool


@dataclass(frozen=True, slots=True)
class Leaving:
    """Every step is done: trainers finish their checkpoints and go."""

    no_more_plans: NoMorePlans


@dataclass(frozen=True, slots=True)
class Released:
    """Every trainer has gone, so the servers may go."""

    no_more_plans: NoMorePlans


Stage = Preparing | Gathering | Streaming | Leaving | Released
