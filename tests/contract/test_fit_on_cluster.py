"""`bagpipe.fit(on="cluster")`: the same call, a run of the same kind; the real operator on a fake API server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_api import FakeApi
from fake_controllers import FakeControllers
from rig import Rig
from served_api import served

import bagpipe
from bagpipe.errors import ConfigError
from bagpipe.interactive.cluster import ClusterRun
from bagpipe_operator import names

DATA: dict[str, Any] = {
    "data": "s3://bucket/clicks/",
    "columns": {"labels": ["click"], "dense": ["price"], "sparse": ["user", "item"]},
}
RECORDS = [{"step": n, "totalSteps": 2, "loss": 1.0 / n, "examplesPerSecond": 10.0, "time": n} for n in (1, 2)]
SUMMARY = {"steps": 2, "loss": 0.5, "evaluation": {"auc": 0.75, "logLoss": 0.6}, "stopped": False}


class World:
    """A cluster: API server, controllers, kubelets, and the operator."""

    def __init__(self) -> None:
        self.rig = Rig(FakeApi())
        self.controllers = FakeControllers(self.rig.api)

    def come_to_rest(self) -> None:
        """Until nobody has anything to do."""
        for _ in range(30):
            self.rig.again("clicks")
            acts = self.controllers.acts()
            if not acts:
                return
            for act in acts:
                act()
        raise AssertionError("the cluster does not come to rest")

    def train(self) -> None:
        """Every process ends well; the oracle prints its records and leaves its summary."""
        for role, words in (("trainer", ""), ("oracle", json.dumps(SUMMARY))):
            for pod in self.controllers.living(role):
                self.controllers.state(pod, "Succeeded", 0, words)()
        self.come_to_rest()

    def log(self, role: str, text: str) -> None:
        """What the processes of a role have printed."""
        for pod in self.controllers.living(role):
            self.rig.api.logs["ns", pod["metadata"]["name"]] = text


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World()
    with served(made.rig.api, tmp_path) as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield made
    made.rig.close()


def test_it_is_a_run_like_any_other(world: World) -> None:
    """Submitted at once, started by the operator as the call said, suspended, resumed and awaited; its figures,
    logs and summary are those that the pods left.
    """
    run = bagpipe.fit("dcn", **DATA, name="clicks", trainers=2, batch_size=64, on="cluster")
    assert isinstance(run, bagpipe.Run) and isinstance(run, ClusterRun)
    assert run.summary == {} and run.view().phase != "Complete"
    world.come_to_rest()
    spec = world.rig.api.objects[names.KIND, "ns", "clicks"]["spec"]
    assert (spec["model"]["name"], spec["batchSize"], spec["trainers"]["replicas"]) == ("dcn", 64, 2)
    assert len(world.controllers.living("trainer")) == 2 and run.view().phase in ("Starting", "Running")
    run.suspend()
    world.come_to_rest()
    for pod in world.controllers.living("trainer") + world.controllers.living("oracle"):
        world.controllers.state(pod, "Failed", 143)()
    world.come_to_rest()
    assert run.stopped and not world.controllers.living("trainer")
    run.resume()
    world.come_to_rest()
    assert not run.stopped and len(world.controllers.living("trainer")) == 2
    world.log("oracle", "".join(f"{json.dumps(record)}\n" for record in RECORDS))
    world.log("trainer", "words of a trainer\n")
    frame = run.metrics()
    found = frame if isinstance(frame, list) else frame.to_dict("records")
    assert [record["loss"] for record in found] == [1.0, 0.5]
    assert list(run.logs("trainer", 1)) == ["words of a trainer"]
    assert "<svg" in run.plot()._repr_svg_()
    world.train()
    assert run.wait(timeout_seconds=0).summary["evaluation"]["auc"] == 0.75
    assert "trained step 2, loss 0.5000, test AUC 0.7500" in repr(run)


def test_what_pods_cannot_have_is_refused_before_anything_is_created(world: World) -> None:
    """Rows and classes of this process; the message says what to give instead. So are settings that will not do."""
    for given, message in (
        ({"data": [{"click": 1, "user": 2}]}, "write them where they can, and give the path or URL"),
        ({"batch_size": 0}, "batchSize"),
    ):
        with pytest.raises(ConfigError, match=message):
            bagpipe.fit("dcn", **{**DATA, **given}, on="cluster")
    assert not any(kind == names.KIND for kind, _, _ in world.rig.api.objects)


def test_what_needs_its_files_says_where_they_are(world: World) -> None:
    """Scoring and export are done where the checkpoints lie; a name that is taken is the cluster's refusal."""
    run = bagpipe.fit("dcn", **DATA, name="clicks", on="cluster")
    for what in (run.evaluate, lambda: run.predict("x"), lambda: run.export("x"), lambda: run.checkpoint):
        with pytest.raises(ConfigError, match=r"job clicks is in namespace ns of a cluster, and its checkpoints"):
            what()
    with pytest.raises(ConfigError, match=r"clicks: namespace ns has one of that name: .*already exists; choose"):
        bagpipe.fit("dcn", **DATA, name="clicks", on="cluster")


def test_a_context_brings_its_own_namespace(world: World, tmp_path: Path) -> None:
    """Of the context that is named, not of the one that is current."""
    text = (tmp_path / "kubeconfig").read_text()
    other = "contexts:\n- context: {cluster: fake, user: fake, namespace: other}\n  name: elsewhere\n"
    (tmp_path / "kubeconfig").write_text(text.replace("contexts:\n", other))
    bagpipe.fit("dcn", **DATA, name="clicks", on="cluster", context="elsewhere")
    assert (names.KIND, "other", "clicks") in world.rig.api.objects
