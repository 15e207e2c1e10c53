"""The six trainers: which model each trains, with which flags of its own, and what those mean for the model."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from bagpipe.config import DenseOptimizer, ModelConfig
from bagpipe.errors import ConfigError
from bagpipe.paper.flags import Parser, widths

BOTTOM = "13-1024-1024-512-256-64-48"
TOP = "1024-512-256-1"


@dataclass(frozen=True, slots=True)
class Kind:
    """One of `trainer_*_main.py`."""

    name: str
    title: str
    add_flags: Callable[[Parser], None]
    model: Callable[[argparse.Namespace], ModelConfig]
    dense: Callable[[argparse.Namespace], DenseOptimizer]
    check: Callable[[argparse.Namespace, int], None] = lambda arguments, num_dense: None
    """Compares the flags with the data's number of dense features."""
    emb_size: int = 48
    log_kind: str = "bagpipe"


def _sgd(arguments: argparse.Namespace) -> DenseOptimizer:
    return DenseOptimizer(name="sgd", lr=arguments.learning_rate)


def _dlrm_flags(parser: Parser) -> None:
    parser.add_argument(
        "--arch-mlp-bot", type=widths, default=BOTTOM, help="dense features, widths of the bottom MLP, --emb-size"
    )
    parser.add_argument("--arch-mlp-top", type=widths, default=TOP, help="widths of the top MLP, 1 at the end")
    parser.add_argument("--loss-function", choices=("bce", "mse"), default="bce", help="loss")
    _ignored(parser)


def _ignored(parser: Parser) -> None:
    """What DLRM's trainer has and never reads."""
    parser.useless("--mini-batch-size", "the oracle's --mini-batch-size holds", takes_value=True)
    for flag in ("--oracle-prefix", "--trainer-prefix", "--emb-prefix"):
        parser.useless(flag, "roles have no names here", takes_value=True)
    parser.useless("--delay-emb-sync", "what the next batch does not need is always sent later", takes_value=False)


def _dlrm(arguments: argparse.Namespace) -> ModelConfig:
    bottom, top = arguments.arch_mlp_bot, arguments.arch_mlp_top
    if len(bottom) < 2 or bottom[-1] != arguments.emb_size:
        raise ConfigError(
            f"--arch-mlp-bot: expected it to end with --emb-size {arguments.emb_size}, found {_shown(bottom)}"
        )
    if top[-1] != 1:
        raise ConfigError(f"--arch-mlp-top: expected one output at the end, found {_shown(top)}")
    return ModelConfig(name="dlrm", bottom_mlp=bottom[1:-1], over_mlp=top[:-1])


def _dlrm_check(arguments: argparse.Namespace, num_dense: int) -> None:
    if arguments.arch_mlp_bot[0] != num_dense:
        raise ConfigError(
            f"--arch-mlp-bot {_shown(arguments.arch_mlp_bot)}: the data has {num_dense} dense features; begin with that"
        )


def _shown(layers: tuple[int, ...]) -> str:
    return "-".join(map(str, layers))


DLRM = Kind("dlrm", "DLRM", _dlrm_flags, _dlrm, _sgd, _dlrm_check)
