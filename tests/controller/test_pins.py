"""An upgrade of the operator changes no job that runs."""

import pytest

from bagpipe_operator import pods
from bagpipe_operator.settings import Settings

PROFILE = {"gpus": 1, "nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}], "env": {"E": "1"}}
OLD = {"trainerImage": "trainer:1", "serverImage": "server:1", "profiles": {"x": PROFILE}}
NEW = {"trainerImage": "trainer:2", "serverImage": "server:2", "profiles": {"x": {"gpus": 4}}}


def images(w):
    return {p["spec"]["containers"][0]["image"] for p in w.live_pods()}


def upgraded(w):
    w.settings = Settings.of(NEW)
    return w


def test_a_running_attempt_is_not_written_to(world):
    """With other images in the operator's settings a pass over a running job writes no object."""
    w = upgraded(world(settings=OLD).run())
    assert w.decide().apply == ()


def test_later_attempts_keep_what_the_first_began_with(world):
    """A new attempt, and one after a suspension, runs on the images and the profile of the first."""
    w = world({"trainers": {"replicas": 2, "gpuProfile": "x"}}, settings=OLD).run()
    assert images(w) == {"trainer:1", "server:1"}
    upgraded(w).end(w.pod("trainer"), 1)
    w.run()
    assert w.status["attempt"] == 1 and images(w) == {"trainer:1", "server:1"}
    trainer = w.pod("trainer")["spec"]
    assert trainer["nodeSelector"] == {"a": "b"}
    assert trainer["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    w.spec["runPolicy"] = {"suspend": True}
    w.settle()
    w.spec["runPolicy"] = {}
    w.run()
    assert w.status["attempt"] == 2 and images(w) == {"trainer:1", "server:1"}


def test_latest_takes_new_images_with_a_new_attempt(world):
    """With `imagePolicy: Latest` new images come with the next attempt, and not within one."""
    w = upgraded(world({"runPolicy": {"imagePolicy": "Latest"}}, settings=OLD).run())
    assert w.decide().apply == () and images(w) == {"trainer:1", "server:1"}
    w.end(w.pod("trainer"), 1)
    w.run()
    assert images(w) == {"trainer:2", "server:2"}


def test_another_profile_is_resolved_anew(world):
    """A profile that the user chose while the job was held is taken from the operator's present settings."""
    w = world({"trainers": {"replicas": 2, "gpuProfile": "x"}}, settings=OLD).run()
    w.spec["runPolicy"] = {"suspend": True}
    w.settle()
    upgraded(w).spec["trainers"]["gpuProfile"] = "cpu"
    w.spec["runPolicy"] = {}
    w.run()
    assert images(w) == {"trainer:2", "server:2"}


def test_a_release_with_other_templates_waits_for_the_next_attempt(world, monkeypatch):
    """What a newer operator would put into pods is not put into a StatefulSet whose attempt has begun."""
    w = world().run()
    monkeypatch.setitem(pods._NO_SIDECARS, "a.newer/release", "x")
    assert w.decide().apply == ()
    w.end(w.pod("trainer"), 1)
    w.run()
    assert w.status["attempt"] == 1 and w.is_true("Running")
    for role in ("server", "trainer"):
        owner = w.pod(role)["metadata"]["ownerReferences"][0]
        template = w.objects[owner["kind"], owner["name"]]["spec"]["template"]
        assert template["metadata"]["annotations"]["a.newer/release"] == "x"


@pytest.mark.parametrize("label", ["7", "foo", None])
def test_a_label_that_somebody_changed_makes_no_new_template(world, monkeypatch, label):
    """The attempt of a StatefulSet is read from the command line in its template, not from what anybody may write."""
    w = world().run()
    w.objects["StatefulSet", "j-servers"]["metadata"]["labels"]["bagpipe.dev/attempt"] = label
    monkeypatch.setitem(pods._NO_SIDECARS, "a.newer/release", "x")
    w.settle()
    template = w.objects["StatefulSet", "j-servers"]["spec"]["template"]
    assert "a.newer/release" not in template["metadata"]["annotations"]
