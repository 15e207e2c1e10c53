"""Tools that know no BagpipeJob tell its health: kstatus' rules (Flux, helm --wait), and Argo CD's script."""

from pathlib import Path

import lupa
import pytest

HEALTH = Path(__file__).parents[2] / "manifests" / "argocd" / "health.lua"


def kstatus(w):
    """The rules for kinds that it has none of their own for, as its README states them."""
    status = w.status
    if status.get("observedGeneration") != w.generation:
        return "InProgress"
    true = {c["type"] for c in status.get("conditions", ()) if c["status"] == "True"}
    if "Reconciling" in true:
        return "InProgress"
    if "Stalled" in true:
        return "Failed"
    ready = w.condition("Ready")
    return "InProgress" if ready and ready["status"] != "True" else "Current"


def starting(world):
    return world().settle()


def running(world):
    return world().run()


def restarting(world):
    w = world().run()
    w.end(w.pod("trainer"), 1)
    return w.settle()


def suspended(world):
    return world({"runPolicy": {"suspend": True}}).settle()


def failed(world):
    w = world().run()
    w.end(w.pod("trainer"), 78)
    return w.settle()


def deleting(world):
    w = world().run()
    w.deleted, w.finalizers = w.now, ["example.com/keep"]
    return w.settle()


def complete(world):
    return world().run().complete()


LIVES = [
    (starting, "InProgress", "Progressing"),
    (running, "Current", "Healthy"),
    (restarting, "InProgress", "Progressing"),
    (suspended, "Current", "Suspended"),
    (failed, "Failed", "Degraded"),
    (complete, "Current", "Healthy"),
    (deleting, "Current", "Progressing"),  # kstatus itself says Terminating of whatever was deleted.
]


@pytest.mark.parametrize(("life", "said"), [(life, said) for life, said, _ in LIVES])
def test_kstatus(world, life, said):
    """A job on its way is in progress, one that runs, is held or is complete is current, one that failed has failed."""
    assert kstatus(life(world)) == said


def test_an_edit_is_in_progress_until_it_is_seen(world):
    """Between an edit and the operator's answer to it tools see that the status is that of the document before."""
    w = world().run()
    w.generation += 1
    assert kstatus(w) == "InProgress" and kstatus(w.settle()) == "Current"


def test_no_event_says_it_twice(world):
    """What tools read is no news: conditions that say again what others say post no event."""
    w = restarting(world)
    assert not [e for e in w.events if e[1] in ("Reconciling", "Stalled")]
    assert sum(reason == "Crashed" for _, reason in w.events) == 1


@pytest.mark.parametrize(("life", "said"), [(life, said) for life, _, said in LIVES])
def test_argo_cd(world, life, said):
    """The script for Argo CD tells the same story in its words; a job that nobody has looked at is progressing."""
    assert argo(life(world).status) == said and argo(None) == "Progressing"


def argo(status):
    """The word that the script says of a job with this status, run as Argo CD runs it: the job is the global `obj`."""
    lua = lupa.LuaRuntime()
    lua.globals()["obj"] = table(lua, {"status": status})
    return lua.execute(HEALTH.read_text())["status"]


def table(lua, value):
    """A value as Lua has it: objects and lists are tables, `null` is not there."""
    if isinstance(value, dict):
        return lua.table_from({key: table(lua, inner) for key, inner in value.items() if inner is not None})
    if isinstance(value, list | tuple):
        return lua.table_from([table(lua, inner) for inner in value])
    return value
