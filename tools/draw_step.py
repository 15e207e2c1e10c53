"""Writes the table and the picture of a trainer's step into `docs/step.md`, from `bagpipe/trainer/transitions.py`.

python tools/draw_step.py            rewrites what lies between the marks
python tools/draw_step.py --check    fails if it would change (as `tests/guards` does)
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from pages import with_part

from bagpipe.trainer.transitions import RELEASE, TABLE, WAITS, Do, Event, Guard, Rule, State

TARGET = Path(__file__).parent.parent / "docs" / "step.md"
MARK = "<!-- {}: written by tools/draw_step.py -->"
END = "<!-- end -->"


def page(text: str) -> str:
    """The page with its generated parts as the table is now."""
    for name, lines in (("picture", picture()), ("table", table())):
        text = with_part(text, MARK.format(name), END, lines)
    return text


# ── the picture ───────────────────────────────────────────────────────────────────────────────────


def picture() -> Iterator[str]:
    """A mermaid diagram: states that wait are drawn with the key of their wait."""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {State.BETWEEN.name}"
    for state in State:
        wait = f"<br/>(waits: {WAITS[state]})" if state in WAITS else ""
        yield f"    {state.name} : {_escaped(state.value)}{wait}"
    for rule in TABLE:
        if rule.state is not None and rule.then is not None:
            yield f"    {rule.state.name} --> {rule.then.name} : {_label(rule)}"
    yield f"    {State.OVER.name} --> [*]"
    yield "```"


def _label(rule: Rule) -> str:
    why = "" if rule.event is Event.HERE else rule.event.value
    why = " and ".join(part for part in (why, rule.guard.value) if part)
    return "<br/>".join([_escaped(why), *(f"<b>{_escaped(do)}</b>" for do in _shortened(rule))])


def _escaped(text: str) -> str:
    """A colon or semicolon ends a label of mermaid's."""
    return text.replace(":", " -").replace(";", ",")


def _shortened(rule: Rule) -> list[str]:
    """Instructions in words; those that always go together as one."""
    words, rest = [], list(rule.instructions)
    while rest:
        if tuple(rest[: len(RELEASE)]) == RELEASE:
            words.append("release the step before" if rule.event is not Event.STEP_ENDED else "release this step")
            del rest[: len(RELEASE)]
        else:
            words.append(rest.pop(0).value)
    return words


# ── the table ─────────────────────────────────────────────────────────────────────────────────────


def table() -> Iterator[str]:
    """One line for each rule; of those for one state and event the first applies whose condition holds."""
    yield "| state | when | if | do, in this order | then |"
    yield "|---|---|---|---|---|"
    for rule in TABLE:
        state = rule.state.value if rule.state is not None else "any state"
        then = rule.then.value if rule.then is not None else "the same"
        yield f"| {state} | {rule.event.value} | {rule.guard.value} | {'; '.join(_shortened(rule))} | {then} |"
    yield ""
    yield f"*Release* stands for: {'; '.join(do.value for do in RELEASE)}. A step is released once."
    unused = {*Do} - {do for rule in TABLE for do in rule.instructions}
    unused_guards = {*Guard} - {rule.guard for rule in TABLE}
    assert not unused and not unused_guards, f"no rule mentions {unused | unused_guards}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail instead of writing")
    arguments = parser.parse_args()
    before = TARGET.read_text(encoding="utf-8")
    after = page(before)
    if arguments.check and after != before:
        sys.exit(f"{TARGET} is stale: run `make docs`")
    if after != before:
        TARGET.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
