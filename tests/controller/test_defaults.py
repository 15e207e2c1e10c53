"""What an installation wants of all pods lies under what a job says, and stays what it was for a job that has begun."""

import pytest

from bagpipe_operator.api import SpecError
from bagpipe_operator.settings import Settings

TOLERATION = {"key": "team", "operator": "Exists"}
DEFAULTS = {
    "allRoles": {"labels": {"owner": "platform", "tier": "x"}, "tolerations": [TOLERATION]},
    "trainers": {"resources": {"requests": {"cpu": "2"}}, "env": [{"name": "PROXY", "value": "here"}]},
}


def template(w, role):
    owner = ("StatefulSet", "j-servers") if role == "server" else ("Job", "j-trainers-0")
    return w.objects[owner]["spec"]["template"]


def test_defaults_are_in_every_pod(world):
    """All roles get what is for all, trainers what is for trainers."""
    w = world(settings={"jobDefaults": DEFAULTS}).settle()
    for role in ("server", "trainer"):
        assert template(w, role)["metadata"]["labels"]["owner"] == "platform"
        assert TOLERATION in template(w, role)["spec"]["tolerations"]
    assert "resources" not in template(w, "server")["spec"]["containers"][0]
    assert template(w, "trainer")["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "2"}}


def test_a_job_says_otherwise(world):
    """What the job says for all roles comes above what the installation says for one."""
    spec = {"allRoles": {"resources": {"requests": {"cpu": "7"}}, "labels": {"tier": "y"}}}
    w = world(spec, settings={"jobDefaults": DEFAULTS}).settle()
    container, labels = template(w, "trainer")["spec"]["containers"][0], template(w, "trainer")["metadata"]["labels"]
    assert container["resources"] == {"requests": {"cpu": "7"}}
    assert (labels["owner"], labels["tier"]) == ("platform", "y")
    assert {"name": "PROXY", "value": "here"} in container["env"]


def test_a_job_that_has_begun_keeps_them(world):
    """Other defaults are for jobs that begin later, also when this one starts again."""
    w = world(settings={"jobDefaults": DEFAULTS}).run()
    w.settings = Settings.of({"jobDefaults": {"allRoles": {"labels": {"owner": "other"}}}})
    assert w.decide().apply == ()
    w.end(w.pod("trainer"), 1)
    w.run()
    assert w.status["attempt"] == 1 and {p["metadata"]["labels"]["owner"] for p in w.live_pods()} == {"platform"}


def test_a_job_of_an_older_release_goes_on(world):
    """Pins that were written before there were defaults are read as before."""
    w = world().run()
    del w.status["pinned"]["settings"]["jobDefaults"]
    assert w.decide().apply == ()


@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        (
            {"everyone": {}},
            "jobDefaults: expected allRoles or oracle or servers or trainers, found the text 'everyone'",
        ),
        ({"servers": {"labls": {"a": "b"}}}, "jobDefaults.servers: expected 'labels', found the text 'labls'"),
        ({"trainers": {"gpuProfile": "v100"}}, "jobDefaults.trainers: expected a setting that pods of every role have"),
        ({"allRoles": {"env": "A=1"}}, "jobDefaults.allRoles.env: expected a list, found the text 'A=1'"),
    ],
)
def test_what_is_no_setting_is_refused(defaults, words):
    """The operator does not start on defaults that it could put into no pod."""
    with pytest.raises(SpecError) as caught:
        Settings.of({"jobDefaults": defaults})
    assert words in str(caught.value)
