"""Every number of the command line has two bounds, every endpoint a form, every path one meaning."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer

from bagpipe.cli import main as cli
from bagpipe.cli.values import Bounded, endpoint, job_path, local_path, new_file, number, whole
from bagpipe.errors import ConfigError


def parameters(app: typer.Typer, name: str = "bagpipe") -> Iterator[tuple[str, set[type], Any]]:
    """Every option and argument of every command: where it is, its plain types, what typer was told of it."""
    for command in app.registered_commands:
        assert command.callback is not None
        for parameter, hint in get_type_hints(command.callback, include_extras=True).items():
            kinds = set(plain_types(hint))
            yield f"{name} {command.name} {parameter}", kinds, getattr(hint, "__metadata__", [None])[0]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from parameters(group.typer_instance, f"{name} {group.name}")


def plain_types(hint: Any) -> Iterator[type]:
    inner = [part for part in get_args(hint) if isinstance(part, type) or get_args(part)]
    if not inner:
        yield hint
    for part in inner:
        yield from plain_types(part)


ALL = list(parameters(cli.app))


def test_every_number_of_the_command_line_is_bounded() -> None:
    """No option takes a number by typer's own types, which let `nan` pass; each has a unit and two bounds."""
    numbers = [(name, told.parser) for name, kinds, told in ALL if kinds & {int, float}]
    assert len(numbers) >= 17
    for name, read in numbers:
        assert isinstance(read, Bounded), name
        beyond = (str(read.least - 1), str(read.greatest * 2 + 1))
        for wrong in ("nan", "inf", "-inf", "1e400", "", "x", "1_0", "٣", *beyond):
            with pytest.raises(ConfigError, match=rf"^{read.option}: expected a .* of {read.unit} from ") as caught:
                read(wrong)
            assert "\n" not in str(caught.value), name
        assert read(str(read.least)) == read.least
        assert read(str(read.greatest)) == read.greatest


def test_every_path_of_the_command_line_is_read_in_one_place() -> None:
    """No option takes a path by typer's own type, which keeps `~`."""
    found = [(name, told.parser) for name, kinds, told in ALL if Path in kinds]
    assert len(found) >= 17
    assert [name for name, parser in found if parser not in (job_path, local_path, new_file)] == []


def test_whole_and_broken_numbers() -> None:
    """A whole number has no point; another may."""
    assert whole("--n", 0, 10, "steps")("7") == 7
    with pytest.raises(ConfigError, match=r"--n: expected a whole number of steps from 0 to 10, found '7.5'"):
        whole("--n", 0, 10, "steps")("7.5")
    assert number("--s", 0, 10, "seconds")("7.5e-1") == 0.75


ENDPOINTS = [
    ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0"),
    ("localhost:7700", "tcp://localhost:7700"),
    ("tcp://*:65535", "tcp://*:65535"),
    ("[::1]:7788", "tcp://[::1]:7788"),
    ("tcp://[fe80::1%eth0]:1", "tcp://[fe80::1%eth0]:1"),
]


@pytest.mark.parametrize(("given", "read"), ENDPOINTS)
def test_endpoints(given: str, read: str) -> None:
    """`tcp://` may be left out; IPv6 addresses stand in brackets."""
    assert endpoint("--bind", listening=True)(given) == read


@pytest.mark.parametrize(
    "given",
    [
        "",
        "localhost",
        "tcp://127.0.0.1:99999",
        "127.0.0.1:",
        "::1:7788",
        "ipc:///x",
        "udp://h:1",
        "h:x",
        "h:-1",
        "h h:1",
        "300.1.1.1:1",
        "[1:2]:1",
    ],
)
def test_what_is_no_endpoint(given: str) -> None:
    """One line with the option and the form that is expected; a port beyond 65535 is none."""
    with pytest.raises(ConfigError, match=r"^--bind: expected tcp://host:port, with a port from 0 to 65535 and "):
        endpoint("--bind", listening=True)(given)


@pytest.mark.parametrize("given", ["tcp://127.0.0.1:0", "tcp://*:7700"])
def test_nobody_connects_to_any_port_or_every_interface(given: str) -> None:
    """Port 0 and host `*`, which are for listening, are refused by name where others are to connect."""
    with pytest.raises(ConfigError, match=r"^--oracle: expected tcp://host:port, with a port from 1 to 65535 and "):
        endpoint("--oracle", listening=False)(given)


def test_a_file_is_written_into_a_folder_that_is_there(tmp_path: Path) -> None:
    """Its absence is told before the work, and by the code of a mistake."""
    assert new_file(str(tmp_path / "scores")) == tmp_path / "scores"
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/no/scores: there is no folder {tmp_path}/no; make it"):
        new_file(str(tmp_path / "no" / "scores"))


def test_local_paths(monkeypatch) -> None:
    """`~` and `~/x` are the home folder; other names with `~` are names."""
    monkeypatch.setenv("HOME", "/home/me")
    assert local_path("~/x") == Path("/home/me/x")
    assert local_path("~") == Path("/home/me")
    assert local_path("~good.json") == Path("~good.json")
    assert local_path("$HOME/a #2%") == Path("$HOME/a #2%")
    with pytest.raises(ConfigError, match="a path is empty"):
        local_path("")
    with pytest.raises(ConfigError, match="NUL"):
        local_path("a\0b")
