"""An upgrade of the operator changes no job that runs."""

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
    """`imagePolicy: Latest`: not within an attempt, but with the next one."""
    w = upgraded(world({"runPolicy": {"imagePolicy": "Latest"}}, settings=OLD).run())
    assert w.decide().apply == () and images(w) == {"trainer:1", "server:1"}
    w.end(w.pod("trainer"), 1)
    w.run()
    assert images(w) == {"trainer:2", "server:2"}


def test_another_profile_is_resolved_anew(world):
    """A profile that the user changed while the job was held is that of the present settings."""
    w = world({"trainers": {"replicas": 2, "gpuProfile": "x"}}, settings=OLD).run()
    w.spec["runPolicy"] = {"suspend": True}
    w.settle()
    upgraded(w).spec["trainers"]["gpuProfile"] = "cpu"
    w.spec["runPolicy"] = {}
    w.run()
    assert images(w) == {"trainer:2", "server:2"}
