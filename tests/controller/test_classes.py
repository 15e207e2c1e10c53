"""Presets by name: a job chooses one, keeps it as it was when the job began, and goes beyond no limit of it."""

import pytest

from bagpipe_operator.api import SpecError
from bagpipe_operator.settings import Settings

BIG = {
    "images": {"trainer": "team/trainer:3", "server": "team/server:3"},
    "gpuProfile": "x",
    "defaults": {"allRoles": {"labels": {"tier": "class"}}, "trainers": {"env": [{"name": "FROM", "value": "class"}]}},
    "limits": {"maxTrainers": 3},
}
INSTALLED = {
    "jobClasses": {"big": BIG, "small": {"limits": {"maxTrainers": 1, "images": ["team/"]}}},
    "jobDefaults": {"trainers": {"labels": {"owner": "platform", "tier": "installation"}}},
    "jobLimits": {"maxServers": 2},
    "profiles": {"x": {"gpus": 2}},
}


def of_class(name, **spec):
    return {"runPolicy": {"jobClass": name} if name else {}, **spec}


def trainer(w):
    return w.pod("trainer")


def images(w):
    return {p["spec"]["containers"][0]["image"] for p in w.live_pods()}


def test_a_class_is_in_every_pod(world):
    """Images, profile and pod settings; over those of the installation, and under those of the job."""
    job = {"trainers": {"replicas": 2, "env": [{"name": "FROM", "value": "job"}]}}
    w = world(of_class("big", **job), settings=INSTALLED).run()
    assert images(w) == {"team/trainer:3", "team/server:3"}
    labels, container = trainer(w)["metadata"]["labels"], trainer(w)["spec"]["containers"][0]
    assert (labels["owner"], labels["tier"]) == ("platform", "class")
    assert {"name": "FROM", "value": "job"} in container["env"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}


def test_a_job_may_name_another_profile(world):
    """The class's is for jobs that name none."""
    w = world(of_class("big", trainers={"replicas": 1, "gpuProfile": "cpu"}), settings=INSTALLED).run()
    assert "resources" not in trainer(w)["spec"]["containers"][0]


@pytest.mark.parametrize("policy", [{}, {"suspend": True}, {"queueName": "q"}])
def test_an_unknown_class_ends_the_job_at_once(world, policy):
    """In one line with the classes that there are, also while the job is held, and before anything of it is made."""
    w = world({"runPolicy": {"jobClass": "bigg", **policy}}, settings={**INSTALLED, "kueue": True}).settle()
    words = "spec.runPolicy.jobClass: no class 'bigg' in this installation; known: big, small"
    assert (w.condition("Failed")["reason"], w.condition("Failed")["message"]) == ("InvalidSpec", words)
    assert not w.objects


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (of_class("small"), "spec.trainers.replicas: the class small allows 1, found 2"),
        (of_class("big", servers={"replicas": 3}), "spec.servers.replicas: this installation allows 2, found 3"),
        (
            of_class("small", trainers={"replicas": 1, "image": "x/y"}),
            "the class small allows images that begin with team/",
        ),
    ],
)
def test_limits_of_class_and_installation_hold_both(world, spec, words):
    """Each names whose it is."""
    w = world(spec, settings=INSTALLED).settle()
    assert w.condition("Failed")["reason"] == "InvalidSpec" and words in w.condition("Failed")["message"]


def test_scaling_beyond_the_class_ends_no_attempt(world):
    """As with the installation's limits, the job goes on with what it has and says why."""
    w = world(of_class("big"), settings=INSTALLED).run()
    w.spec["trainers"]["replicas"] = 4
    w.settle()
    told = w.condition("Reconciled")
    assert told["reason"] == "BeyondLimits" and "the class big allows 3, found 4" in told["message"]
    assert w.status["phase"] == "Running" and w.status.get("attempt", 0) == 0


@pytest.mark.parametrize("named", ["big", None])
@pytest.mark.parametrize("later", [{"big": {}}, {}], ids=["changed", "gone"])
def test_a_job_keeps_the_class_that_it_began_with(world, later, named):
    """Whatever the installation says of it by then, also in later attempts; a default class like one that was named."""
    installed = INSTALLED if named else {**INSTALLED, "defaultJobClass": "big"}
    w = world(of_class(named), settings=installed).run()
    assert images(w) == {"team/trainer:3", "team/server:3"}
    w.settings = Settings.of({"jobClasses": later})
    assert w.decide().apply == ()
    w.end(trainer(w), 1)
    w.run()
    assert w.status["attempt"] == 1 and images(w) == {"team/trainer:3", "team/server:3"}
    assert trainer(w)["metadata"]["labels"]["tier"] == "class"
    assert trainer(w)["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "2"}


def test_a_default_class_is_no_affair_of_jobs_that_have_begun(world):
    """A job that began without a class stays without one."""
    w = world(settings={}).run()
    before = images(w)
    w.settings = Settings.of({**INSTALLED, "defaultJobClass": "big"})
    assert w.decide().apply == ()
    w.end(trainer(w), 1)
    w.run()
    assert w.status["attempt"] == 1 and images(w) == before


def test_another_class_is_another_attempt(world):
    """Chosen while the job was held, it is resolved anew; so is one that was changed and resumed unseen."""
    w = world(of_class("big"), settings=INSTALLED).run()
    w.spec["runPolicy"] = {"jobClass": "small"}
    w.spec["trainers"] = {"replicas": 1}
    w.run()
    assert w.status["attempt"] == 1 and w.status["pinned"]["jobClass"]["name"] == "small"
    assert not {"team/trainer:3", "team/server:3"} & images(w)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ([], "jobClasses: expected a map, found a list"),
        ({"A b": {}}, "jobClasses: expected names of at most 40 of a-z, 0-9 and -, found 'A b'"),
        ({"a" * 41: {}}, "jobClasses: expected names of at most 40"),
        ({f"c{i}": {} for i in range(101)}, "jobClasses: expected at most 100 classes, found 101"),
        ({"a": {"image": "x"}}, "jobClasses.a: unknown key 'image'; known: description, images,"),
        ({"a": {"images": {"oracle": "x"}}}, "jobClasses.a.images: unknown key 'oracle'; known: trainer, server"),
        ({"a": {"images": "x"}}, "jobClasses.a.images: expected a map, found the text 'x'"),
        ({"a": {"gpuProfile": "y"}}, "jobClasses.a.gpuProfile: expected the name of a profile, found the text 'y'"),
        ({"a": {"defaults": {"all": {}}}}, "jobClasses.a.defaults: expected allRoles or oracle"),
        ({"a": {"defaults": {"oracle": {"labels": {"a": "x" * 70_000}}}}}, "expected at most 65,536 characters"),
        ({"a": {"limits": {"maxTrainers": 0}}}, "jobClasses.a.limits.maxTrainers: expected a whole number from 1"),
    ],
)
def test_a_class_that_cannot_be_ends_the_operator_at_its_start(classes, words):
    """By its name, with what was expected and what was found."""
    with pytest.raises(SpecError) as caught:
        Settings.of({"jobClasses": classes})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_default_class_must_be_there():
    """Else every job without a class would fail."""
    with pytest.raises(SpecError, match="defaultJobClass: no class 'b' in this installation; known: a"):
        Settings.of({"jobClasses": {"a": {}}, "defaultJobClass": "b"})
