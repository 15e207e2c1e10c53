"""An error of the user's own code is one line with the user's file and line, and exit code 78; ours stays ours."""

import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import nn

import bagpipe
from bagpipe.cache.aligned import aligned
from bagpipe.cache.lookup import SparseEmbeddings
from bagpipe.errors import ConfigError, DeviceError, ExitCode, PeerLost, UserCodeError
from bagpipe.local.role_process import stop_flag
from bagpipe.lowlevel.process_life import Ended
from bagpipe.trainer.loop import Trainer
from bagpipe.trainer.user_code import machine_error, naming_user_code, user_error

SOURCE = """import torch
from torch import nn

class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Linear(2, 1)
        self.extra = nn.Linear(2, 1)

    def forward(self, x):
        return helper(x)

def helper(x):
    raise ValueError("first line" + chr(10) + "second line")

class Wrong(Raises):
    def forward(self, x):
        return nn.functional.linear(x, torch.zeros(1, 7))
"""
FORWARD, RAISE, LINEAR = 10, 14, 18
"""Lines of it."""


@pytest.fixture
def users(tmp_path: Path) -> Iterator[ModuleType]:
    """A module in a folder of the user's."""
    file = tmp_path / "their_models.py"
    file.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("their_models", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["their_models"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["their_models"]


def raised_in_torch(error: Exception) -> Exception:
    """The same error with a traceback of one frame, in a file of torch's."""
    scope: dict[str, Callable[[Exception], None]] = {}
    exec(compile("def fail(error): raise error", str(Path(torch.__file__).with_name("any.py")), "exec"), scope)
    with pytest.raises(type(error)) as caught:
        scope["fail"](error)
    return without_this_file(caught.value)


def without_this_file(error: Exception) -> Exception:
    """Tests are no library's files, so their own frame would count as the user's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return error.with_traceback(trace)


def test_the_line_that_raised_is_named(users: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """The innermost line of the user's, the exception and its first line; the traceback is in the log alone."""
    model = users.Raises()
    with pytest.raises(UserCodeError) as caught, naming_user_code([model]):
        model(torch.zeros(1, 2))
    assert str(caught.value) == f"{users.__file__}:{RAISE} (helper): ValueError: first line"
    assert caught.value.exit_code == ExitCode.BAD_CONFIG and caught.value.__suppress_context__
    assert "Traceback" in caplog.text


class Panic(BaseException):
    """As libraries in Rust raise where they panic."""


class Dumb(Exception):
    """What it says cannot be said."""

    def __str__(self) -> str:
        raise RuntimeError


def raise_as_user(users: ModuleType, error: BaseException) -> None:
    """Raise it in a line of the user's module."""
    scope = {"error": error}
    exec(compile("def raises(): raise error", str(users.__file__), "exec"), scope)
    scope["raises"]()  # type: ignore[operator]  # it was defined there


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SystemExit(0), "SystemExit: 0"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (Panic("index out of range"), "Panic: index out of range"),
        (Dumb(), "Dumb"),
    ],
)
def test_whatever_the_users_code_raises_in_a_role_is_named(users: ModuleType, error: BaseException, words: str) -> None:
    """Also what is no `Exception`: it ended the role with another code, said nothing, and was tried again."""
    with stop_flag(), pytest.raises(UserCodeError, match=rf"\(raises\): {words}$"), naming_user_code([]):
        raise_as_user(users, error)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Ended(signal.SIGTERM)])
def test_ctrl_c_and_a_request_to_end_are_not_the_users(users: ModuleType, error: BaseException) -> None:
    """In a command that takes Ctrl-C as Python does, it may come while the user's code runs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background job ignores it.
    try:
        with pytest.raises(type(error)), naming_user_code([]):
            raise_as_user(users, error)
    finally:
        signal.signal(signal.SIGINT, before)


def test_where_torch_raises_below_the_user_the_users_line_counts(users: ModuleType) -> None:
    """A wrong shape is found deep in torch, and caused one frame above it."""
    where = rf"their_models.py:{LINEAR} \(forward\): RuntimeError"
    with pytest.raises(UserCodeError, match=where), naming_user_code([]):
        users.Wrong()(torch.zeros(1, 2))


def test_what_torch_says_of_a_model_as_a_whole_names_its_class(users: ModuleType) -> None:
    """An optimizer without parameters, a backward pass that fails: no line of the user's is in the traceback."""
    named = user_error(raised_in_torch(ValueError("optimizer got an empty parameter list")), users.Raises())
    assert str(named) == f"{users.__file__}:{FORWARD} (Raises): ValueError: optimizer got an empty parameter list"


def test_an_error_about_a_shipped_model_is_ours() -> None:
    """torch raised about a model that is not the user's: there is no line of the user's to name."""
    assert user_error(raised_in_torch(RuntimeError("boom")), nn.Linear(1, 1)) is None


def test_our_own_bugs_stay_ours(users: ModuleType) -> None:
    """An error that the library raises by itself is not blamed on a user's model."""
    with pytest.raises(TypeError) as caught:
        aligned(3)  # type: ignore[arg-type]
    assert user_error(without_this_file(caught.value), users.Raises()) is None


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 37 GiB"), ConfigError, "lower batchSize"),
        (MemoryError("Unable to allocate 4 TiB"), ConfigError, "not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            ConfigError,
            "larger machine",
        ),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), DeviceError, "a device failed"),
    ],
    ids=["GPU memory", "memory", "torch's memory", "GPU"],
)
def test_what_the_machine_lacks_is_not_the_models_fault(
    users: ModuleType, error: Exception, kind: type[Exception], words: str
) -> None:
    """A frame of the user's is in the traceback, and says nothing about the cause."""
    users.error = error
    exec("def raises(): raise error", users.__dict__)
    with pytest.raises(kind, match=words), naming_user_code([users.Raises()]):
        users.raises()


def test_an_assertion_on_the_device_is_the_users(users: ModuleType) -> None:
    """It is how a GPU tells of an index out of range."""
    assert machine_error(torch.AcceleratorError("CUDA error: device-side assert triggered")) is None


def ours(text: str) -> None:
    """Run this as if it stood in a file of the library."""
    names = {"ConfigError": ConfigError, "naming_user_code": naming_user_code}
    exec(compile(text, str(Path(bagpipe.__file__).parent / "pretended.py"), "exec"), names)


def test_deliberate_errors_pass() -> None:
    """They are one line already."""
    with pytest.raises(PeerLost, match="as it was"), naming_user_code([]):
        raise PeerLost("as it was")
    with pytest.raises(ConfigError, match="no such model") as caught:
        ours("with naming_user_code([]):\n    raise ConfigError('no such model')")
    assert str(caught.value) == "no such model"


def test_what_we_refuse_within_the_users_code_gets_its_line(users: ModuleType) -> None:
    """Otherwise "expected one of the features ..." would not say which of a hundred lines asked for it."""
    users.helper = lambda x: ours("raise ConfigError('no such feature')")
    with pytest.raises(UserCodeError) as caught, naming_user_code([]):
        users.Raises()(torch.ones(1, 2))
    assert str(caught.value).endswith(": no such feature")
    assert f"{users.__file__}:" in str(caught.value) or f"{__file__}:" in str(caught.value)


def test_a_lost_peer_is_not_the_models_fault(users: ModuleType) -> None:
    """DDP shares running means in forward: a peer that is gone there is no error of the model, and is tried again."""
    gone = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    model, trainer = users.Raises(), object.__new__(Trainer)
    topology = SimpleNamespace(spec=SimpleNamespace(micro_batches=1))
    members = SimpleNamespace(rank=1, world_size=2, at_step=lambda step: None, topology=topology)
    trainer.members = members  # type: ignore[assignment]
    trainer.set_step = lambda step, first: None
    trainer.skipping = None

    def forward(*_: object) -> NoReturn:
        raise raised_in_torch(gone)

    trainer.parallel = model
    trainer._forward = forward  # type: ignore[method-assign]
    plan = SimpleNamespace(step=4, first_example=4, num_examples=8, dense_BF=np.zeros((4, 1)))
    with pytest.raises(PeerLost, match=r"trainer 1: .* at step 4: .*Connection closed"), naming_user_code([model]):
        trainer.train(SimpleNamespace(plan=plan, watch=None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: torch.cat([torch.zeros(1, 2), x], dim=1),
        lambda x: x.flatten(1),
        lambda x: torch.zeros(1) * x,
        lambda x: nn.functional.linear(x, torch.zeros(1, 2)),
    ],
    ids=["cat", "method", "operator", "function"],
)
def test_embeddings_that_are_taken_for_a_tensor_are_explained(
    users: ModuleType, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Any], Any]
) -> None:
    """The first model of one's own concatenates `forward`'s two arguments; the line says how to get a tensor."""
    monkeypatch.setattr(users, "helper", wrong)
    embeddings = object.__new__(SparseEmbeddings)
    with pytest.raises(UserCodeError, match=r"no tensor: sparse\.stacked\(\) is \[B, T, D\]"), naming_user_code([]):
        users.Raises()(embeddings)
