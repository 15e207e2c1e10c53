"""No role waits for ever: a call that can block says for how long, or stands here with the reason why it ends."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ROLES = ("cache", "checkpoint", "cli", "data", "embedding", "local", "lowlevel", "net", "oracle", "trainer")
"""Packages whose code runs in a role or its supervisor."""
BLOCKING = ("acquire", "communicate", "join", "recv", "recv_multipart", "result", "wait")
"""Methods that wait for ever if they are told nothing. `poll` is one of a poller alone: ours look and return."""
KNOWN = {
    "cli/server.py: stop.wait": "until SIGTERM, which is what --stay asks for",
    "data/describe.py: counter.result": "computes; it waits for nobody",
    "local/children.py: self._over.wait": "a thread of its own, as whose children the roles live until they are to end",
    "local/process.py: self._process.wait": "behind SIGKILL to the whole group",
    "local/role_process.py: poller.poll": "until SIGTERM, which is what --stay asks for",
    "lowlevel/lease.py: self._thread.join": "the thread was told to end, and looks every few seconds",
    "lowlevel/process_life.py: thread.join": "as at any end of Python",
    "net/doorkeeper.py: self._heard.recv": "what the poller has seen",
    "net/doorkeeper.py: self._questions.recv_multipart": "what the poller has seen",
    "oracle/service/shell.py: made.result": "asked only once it is done",
    "trainer/group_reducer.py: bucket.work.wait": "the process group has the deadline of a step",
    "trainer/reduction.py: process_group.broadcast([buffer]).wait": "as above",
    "trainer/skipping.py: self._group.allreduce([broken]).wait": "as above",
}


def waits() -> Iterator[tuple[str, str]]:
    """Calls without any argument that may block: which, and where."""
    for path in sorted(file for role in ROLES for file in (ROOT / "bagpipe" / role).rglob("*.py")):
        name = str(path.relative_to(ROOT / "bagpipe"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and not node.args and not node.keywords and _blocks(node.func):
                yield f"{name}: {ast.unparse(node.func)}", f"{name}:{node.lineno}"


def _blocks(called: ast.expr) -> bool:
    if not isinstance(called, ast.Attribute):
        return False
    return called.attr in BLOCKING or (called.attr == "poll" and ast.unparse(called.value).endswith("poller"))


def test_every_wait_has_a_deadline_or_a_reason() -> None:
    """What is not known here would wait for ever; what is known here and gone is taken off the list."""
    found = dict(waits())
    assert {where for call, where in found.items() if call not in KNOWN} == set()
    assert KNOWN.keys() - found.keys() == set()
