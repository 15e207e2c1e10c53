"""Stands in for `bagpipe ROLE` where the operator alone is tested: the same argv, ports and exit codes, no learning.

The oracle counts steps, each trainer takes one step every `STANDIN_SECONDS` and saves the step to the
checkpoint directory, the servers serve. `STANDIN_EXIT=role:index:attempt:code[:step]` makes one process
end with that code; several are separated by commas.
"""

import argparse
import json
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

STEPS = int(os.environ.get("STANDIN_STEPS", "20"))
SECONDS = float(os.environ.get("STANDIN_SECONDS", "0.2"))
DEADLINE = float(os.environ.get("STANDIN_DEADLINE", "20"))
LOSS = os.environ.get("STANDIN_LOSS")
"""A loss to report instead of one that falls, `NaN` for instance."""
CHECKPOINTS = Path("/checkpoints")


class Asked(Exception):
    """SIGTERM."""


def stop(*_: object) -> None:
    raise Asked


def planned_exit(role: str, index: int, attempt: int, step: int) -> None:
    for entry in filter(None, os.environ.get("STANDIN_EXIT", "").split(",")):
        who, which, when, code, *at = entry.split(":")
        if (who, int(which), int(when)) == (role, index, attempt) and step >= int(at[0] if at else 0):
            print(f"standin: {role} {index} ends with {code} at step {step}, as told", file=sys.stderr, flush=True)
            os._exit(int(code))


def listen(bind: str) -> socket.socket:
    host, port = bind.removeprefix("tcp://").rsplit(":", 1)
    server = socket.create_server((host, int(port)))
    server.setblocking(False)
    return server


def call(address: str, message: dict[str, object]) -> dict[str, object]:
    """One request to the oracle, retried until the deadline."""
    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    end = time.monotonic() + DEADLINE
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=2) as connection:
                connection.sendall(json.dumps(message).encode() + b"\n")
                return dict(json.loads(connection.makefile().readline()))
        except (OSError, ValueError) as error:
            if time.monotonic() > end:
                print(f"standin: no answer from {address} in {DEADLINE} s: {error}", file=sys.stderr, flush=True)
                sys.exit(75)
            time.sleep(0.2)


def replicas(document: str, section: str) -> int:
    """How many processes of a role the document asks for, with the two levels of its layout that matter here."""
    found = re.search(rf"^  {section}:\n(?:    .*\n)*?    replicas: (\d+)$", document, re.MULTILINE)
    return int(found[1]) if found else 1


def loss(step: int) -> float:
    return float(LOSS) if LOSS else 1 / (1 + step)


def oracle(options: argparse.Namespace, trainers: int, servers: int) -> None:
    sock = listen(options.bind)
    seen: dict[str, set[int]] = {"server": set(), "trainer": set()}
    done: set[int] = set()
    step, spoke = 0, 0.0
    while len(done) < trainers:
        planned_exit("oracle", 0, options.attempt, step)
        try:
            connection, _ = sock.accept()
        except BlockingIOError:
            time.sleep(0.02)
            continue
        with connection:
            connection.settimeout(2)
            line = connection.makefile().readline()
            if not line:  # A probe.
                continue
            message = json.loads(line)
            if message["attempt"] != options.attempt:
                reply = {"refused": True}
            else:
                seen[message["role"]].add(message["index"])
                step = max(step, message.get("step", 0))
                if message.get("done"):
                    done.add(message["index"])
                reply = {"go": len(seen["trainer"]) == trainers and len(seen["server"]) == servers}
            connection.sendall(json.dumps(reply).encode() + b"\n")
        if time.monotonic() - spoke > 1:
            spoke = time.monotonic()
            print(
                json.dumps({"step": step, "total_steps": STEPS, "loss": loss(step), "examples_per_second": 100.0}),
                flush=True,
            )
    Path(options.summary).write_text(
        json.dumps({"steps": STEPS, "loss": loss(STEPS), "attempt": options.attempt, "modelDigest": f"steps-{STEPS}"})
    )


def server(options: argparse.Namespace) -> None:
    sock = listen(options.bind)
    call(options.oracle, {"role": "server", "index": options.shard, "attempt": options.attempt})
    while True:
        planned_exit("server", options.shard, options.attempt, 0)
        # A restarted oracle has forgotten us.
        call(options.oracle, {"role": "server", "index": options.shard, "attempt": options.attempt})
        time.sleep(0.5)
        try:
            sock.accept()[0].close()
        except BlockingIOError:
            pass


def trainer(options: argparse.Namespace) -> None:
    sock = listen(options.bind)  # Kept: the readiness probe asks it.
    mine = {"role": "trainer", "index": options.rank, "attempt": options.attempt}
    while not call(options.oracle, mine).get("go"):
        planned_exit("trainer", options.rank, options.attempt, 0)
        time.sleep(0.1)
    saved = CHECKPOINTS / "step"
    step = int(saved.read_text()) if saved.exists() else 0
    print(f"standin: trainer {options.rank} of attempt {options.attempt} goes on at step {step}", flush=True)
    while step < STEPS:
        planned_exit("trainer", options.rank, options.attempt, step)
        time.sleep(SECONDS)
        step += 1
        call(options.oracle, {**mine, "step": step})
        if options.rank == 0 and CHECKPOINTS.exists():
            saved.with_suffix(".new").write_text(str(step))
            saved.with_suffix(".new").rename(saved)
    call(options.oracle, {**mine, "step": step, "done": True})
    sock.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["oracle", "server", "trainer"])
    for name in ("job", "run-dir", "bind", "oracle", "advertise", "checkpoint", "summary"):
        parser.add_argument(f"--{name}")
    for name in ("attempt", "shard", "rank"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--echo-metrics", action="store_true")
    parser.add_argument("--stay", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    document = Path(options.job).read_text()
    Path(options.run_dir, "started").write_text(document)
    try:
        if options.role == "oracle":
            oracle(options, replicas(document, "trainers"), replicas(document, "servers"))
        elif options.role == "server":
            server(options)
        else:
            trainer(options)
    except Asked:
        sys.exit(0 if options.role == "server" else 143)


if __name__ == "__main__":
    main()
