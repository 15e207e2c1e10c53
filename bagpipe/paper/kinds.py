"""The six trainers: the model of each, its own flags, and the model settings that these give."""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass

from bagpipe.config.document import DenseOptimizer
from bagpipe.config.model import ModelConfig
from bagpipe.errors import ConfigError
from bagpipe.paper.flags import Parser, widths

BOTTOM = "13-1024-1024-512-256-64-48"
TOP = "1024-512-256-1"
FGCNN_TOP = "4096-2048-1024-512-1"


@dataclass(frozen=True, slots=True)
class Kind:
    """One of `trainer_*_main.py`."""

    title: str
    model: Callable[[argparse.Namespace], ModelConfig]
    add_flags: Callable[[Parser], None] = lambda parser: None
    dense: Callable[[argparse.Namespace], DenseOptimizer] = lambda arguments: DenseOptimizer(
        name="sgd", lr=arguments.learning_rate
    )
    check: Callable[[argparse.Namespace, int], None] = lambda arguments, num_dense: None
    """Compares the flags with the data's number of dense features."""
    emb_size: int = 48
    row_width: Callable[[int], int] = lambda emb_size: emb_size
    """Width of a table's rows, given `--emb-size`."""
    tables: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda sizes: sizes
    """The tables' sizes, given those of the flags."""
    log_kind: str = "bagpipe"


def _dlrm_flags(parser: Parser) -> None:
    parser.add_argument(
        "--arch-mlp-bot", type=widths, default=BOTTOM, help="dense features, widths of the bottom MLP, --emb-size"
    )
    parser.add_argument("--arch-mlp-top", type=widths, default=TOP, help="widths of the top MLP, 1 at the end")
    parser.add_argument("--arch-interaction-op", choices=("dot", "cat"), default="dot", help="how vectors interact")
    parser.add_argument(
        "--arch-interaction-itself", action="store_true", help="with dot: each vector's product with itself too"
    )
    _shared_with_dlrm(parser)


def _shared_with_dlrm(parser: Parser) -> None:
    """The loss, and flags that the original's DLRM trainer has and never reads."""
    parser.add_argument("--loss-function", choices=("bce", "mse"), default="bce", help="what is minimised")
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
    if arguments.arch_interaction_itself and arguments.arch_interaction_op == "cat":
        raise ConfigError("--arch-interaction-itself: cat has no products; remove it or use --arch-interaction-op dot")
    return ModelConfig(
        name="dlrm",
        bottom_mlp=bottom[1:-1],
        over_mlp=_without_output(top),
        interaction=arguments.arch_interaction_op,
        interaction_itself=True if arguments.arch_interaction_itself else None,
        loss=arguments.loss_function,
    )


def _without_output(top: tuple[int, ...]) -> tuple[int, ...]:
    if top[-1] != 1:
        raise ConfigError(f"--arch-mlp-top: expected one output at the end, found {_shown(top)}")
    return top[:-1]


def _dlrm_check(arguments: argparse.Namespace, num_dense: int) -> None:
    if arguments.arch_mlp_bot[0] != num_dense:
        raise ConfigError(
            f"--arch-mlp-bot {_shown(arguments.arch_mlp_bot)}: the data has {num_dense} dense features; begin with that"
        )


def _shown(layers: tuple[int, ...]) -> str:
    return "-".join(map(str, layers))


def _wdl_flags(parser: Parser) -> None:
    parser.add_argument("--dense-size", type=int, default=13, help="dense features of the data")


def _wdl_check(arguments: argparse.Namespace, num_dense: int) -> None:
    if arguments.dense_size != num_dense:
        raise ConfigError(f"--dense-size {arguments.dense_size}: the data has {num_dense} dense features; give that")


def _fgcnn_flags(parser: Parser) -> None:
    parser.add_argument(
        "--filter-range", default="2-5", help="first and last of the convolutions with 10, 12, ..., 26 channels"
    )
    parser.add_argument("--arch-mlp-top", type=widths, default=FGCNN_TOP, help="widths of the last MLP, 1 at the end")
    _shared_with_dlrm(parser)


def _fgcnn(arguments: argparse.Namespace) -> ModelConfig:
    if not re.fullmatch("[0-8]-[0-8]", arguments.filter_range):
        raise ConfigError(
            f"--filter-range: expected two numbers from 0 to 8 such as 2-5, found {arguments.filter_range!r}"
        )
    over = _without_output(arguments.arch_mlp_top)
    return ModelConfig(name="fgcnn", filter_range=arguments.filter_range, over_mlp=over, loss=arguments.loss_function)


DLRM = Kind("DLRM", _dlrm, _dlrm_flags, check=_dlrm_check)
WDL = Kind(
    "Wide & Deep",
    lambda arguments: ModelConfig(name="wdl"),
    _wdl_flags,
    check=_wdl_check,
)
DCN = Kind("Deep & Cross", lambda arguments: ModelConfig(name="dcn"))
DEEPFM = Kind("DeepFM", lambda arguments: ModelConfig(name="deepfm"), row_width=lambda emb_size: emb_size + 1)
FGCNN = Kind("FGCNN", _fgcnn, _fgcnn_flags)
CASER = Kind(
    "Caser",
    lambda arguments: ModelConfig(name="caser"),
    dense=lambda arguments: DenseOptimizer(name="adam", lr=0.001, weight_decay=1e-6),
    emb_size=50,
    # Users, items, and once more items: those that are scored.
    tables=lambda sizes: (*sizes, sizes[-1]),
    log_kind="caser",
)
