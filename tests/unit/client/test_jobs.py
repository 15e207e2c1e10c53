"""The client's own decisions: what a job looks like, how a wait ends, what an answer means."""

from types import SimpleNamespace

import pytest
from fake_client import Answer, raising, raw

from bagpipe.client.answers import ClusterError, JobNotFound, NotAllowed
from bagpipe.client.jobs import PATIENCE_SECONDS, JobFailed, JobView, WaitTimeout
from bagpipe.errors import ConfigError, ExitCode


def test_wait_returns_when_complete(client):
    """Every change is shown, and the complete job is returned."""
    made, views, _, _ = client
    views[:] = [raw("Starting"), raw("Running"), raw("Running"), raw("Complete", "Completed", summary={"loss": 1})]
    seen = []
    assert made.wait("j", on_change=lambda view: seen.append(view.phase)).summary == {"loss": 1}
    assert seen == ["Starting", "Running", "Complete"]


@pytest.mark.parametrize(
    ("reason", "code"),
    [("BadConfig", ExitCode.BAD_CONFIG), ("BadData", ExitCode.BAD_DATA), ("BackoffLimitExceeded", ExitCode.SOFTWARE)],
)
def test_wait_raises_when_failed(client, reason, code):
    """A failed job is an error with its reason, and the exit code that fits."""
    made, views, _, _ = client
    views[:] = [raw("Failed", reason)]
    with pytest.raises(JobFailed, match=reason) as caught:
        made.wait("j")
    assert caught.value.exit_code == code


def test_wait_has_a_deadline(client):
    """A wait ends in time, asking once a second until then, and says how far the job was."""
    with pytest.raises(WaitTimeout, match="job j is Running after 90 s"):
        client[0].wait("j", timeout_seconds=90)
    assert client[0]._clock.now() == 90


def test_nobody_waits_for_a_job_that_was_deleted(client):
    """A finalizer may keep it for days, and it makes no step any more; one that had ended is still that."""
    made, views, _, _ = client
    views[:] = [raw("Running"), raw("Deleting", "HeldByFinalizer")]
    views[1]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    with pytest.raises(ClusterError, match="job j was deleted before it had ended"):
        made.wait("j")
    assert list(made.logs("j", follow=True)) == [] and made.get("j").reason == "HeldByFinalizer"
    views[:] = [raw("Complete", "Completed")]
    views[0]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert made.wait("j").phase == "Complete"


def test_the_telling_condition_is_shown():
    """Of several conditions the one that explains the phase."""
    view = JobView.of(raw("Failed", "Unschedulable"))
    assert (view.phase, view.reason, view.message, view.finished) == ("Failed", "Unschedulable", "why", True)


@pytest.mark.parametrize(
    ("status", "message", "code", "words"),
    [
        (404, "", ExitCode.BAD_CONFIG, "this cluster knows no BagpipeJob: install the operator's chart"),
        (404, 'bagpipejobs "j" not found', ExitCode.BAD_CONFIG, 'not in namespace ns: bagpipejobs "j" not found'),
        (
            401,
            "Unauthorized",
            ExitCode.BAD_CONFIG,
            "answered 401: Unauthorized; log in again: it does not accept these",
        ),
        (
            409,
            '"j" already exists',
            ExitCode.BAD_CONFIG,
            'has one of that name: "j" already exists; choose another name',
        ),
        (409, "was changed", ExitCode.BAD_CONFIG, "refused by the cluster: was changed"),
        (403, 'User "u" cannot get\nresource', ExitCode.BAD_CONFIG, 'answered 403: User "u" cannot get resource; ask'),
        (422, "name cannot change", ExitCode.BAD_CONFIG, "refused by the cluster: name cannot change"),
        (503, "busy", ExitCode.TRANSIENT, "answered 503: busy"),
        (0, "", ExitCode.TRANSIENT, "cannot be reached"),
    ],
)
def test_every_refusal_is_a_line_and_a_code(odd, status, message, code, words):
    """What trying again cannot mend is not told as if it could: permissions, a missing kind."""
    odd._jobs.get_namespaced_custom_object = raising(Answer(status, message))
    with pytest.raises((ClusterError, ConfigError)) as caught:
        odd.get("j")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == code


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422])
@pytest.mark.parametrize("body", ["<html>log in</html>", '{"message": "no Route matched"}', "", None])
def test_a_refusal_that_is_not_the_api_servers(odd, status, body):
    """A page to log in that answers 404 says nothing about jobs: it was told as a cluster without the operator."""
    answer = Answer(status)
    answer.body = body
    odd._jobs.get_namespaced_custom_object = raising(answer)
    with pytest.raises(
        ClusterError, match=rf"expected an answer of the API server, found {status} Not Found with .*prox"
    ):
        odd.get("j")


@pytest.mark.parametrize("answer", ["<html>log in</html>", None, [], {}, {"metadata": None}, {"metadata": {}}])
def test_an_answer_that_is_no_job(odd, answer):
    """A proxy may answer in place of the API server, and well."""
    odd._jobs.get_namespaced_custom_object = lambda *a, **k: answer
    odd._jobs.list_namespaced_custom_object = lambda *a, **k: answer
    for ask in (lambda: odd.get("j"), odd.list):
        with pytest.raises(
            ClusterError, match=r"expected a (job|list) from the API server, found .*: is it behind a proxy"
        ):
            ask()


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "x" * 300, "a b"])
def test_a_name_that_no_job_can_have(odd, name):
    """Such a name would make the path of something else; nothing is asked."""
    odd._jobs = SimpleNamespace()
    with pytest.raises(ConfigError, match="NAME: expected lowercase letters"):
        odd.get(name)


def test_describe_shows_what_may_be_seen(odd):
    """Without permission for events, pods or kept lines the page has the rest, and says what it lacks."""
    odd._core.list_namespaced_event = raising(Answer(403, "cannot list events"))
    page = odd.describe("j")
    assert page.startswith("ns/j: Running") and "Not shown" in page and "cannot list events" in page


def test_describe_without_the_lines_that_somebody_deleted(odd):
    """The ConfigMap of a failed job's last lines may be gone; the job is not."""
    job = {**raw("Failed", "BadData", logs={"configMap": "j-logs"})}
    job["metadata"]["uid"] = "u"
    job["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    odd._jobs.get_namespaced_custom_object = lambda *a, **k: job
    odd._core.read_namespaced_config_map = raising(Answer(404, 'configmaps "j-logs" not found'))
    assert "ns/j: Failed" in odd.describe("j")
    with pytest.raises(JobNotFound, match="no pod of oracle 0 now"):
        list(odd.logs("j"))


def test_a_wait_outlasts_an_api_server_that_is_replaced(odd):
    """An API server that is away ends no wait at once; one that stays away does."""
    answers = [Answer(503, "starting")] * 30

    def get(*_, **__):
        if answers:
            raise answers.pop()
        return raw("Complete", "Completed")

    odd._jobs.get_namespaced_custom_object = get
    assert odd.wait("j").phase == "Complete"
    odd._jobs.get_namespaced_custom_object = raising(Answer(503, "gone"))
    before = odd._clock.now()
    with pytest.raises(ClusterError, match="503: gone"):
        odd.wait("j")
    assert odd._clock.now() - before == PATIENCE_SECONDS
    odd._jobs.get_namespaced_custom_object = raising(Answer(403, "no"))
    with pytest.raises(NotAllowed):
        odd.wait("j")


def test_no_request_outlasts_the_wait_that_sends_it(odd):
    """A wait of 40 s asks for 30 s at most, and for what is left at its end."""
    lasts = []

    def get(*_, _request_timeout):
        lasts.append(_request_timeout)
        odd._clock.pause(25)
        raise Answer(0, "silent")

    odd._jobs.get_namespaced_custom_object = get
    with pytest.raises(ClusterError, match="silent"):
        odd.wait("j", timeout_seconds=40)
    assert lasts == [30, 14]


@pytest.mark.parametrize("namespace", ["..", "a/b", "A B", "x" * 64, "a.b"])
def test_a_namespace_that_no_cluster_has(odd, namespace):
    """Such a namespace would make the path of something else: `..` asked for the jobs of all of them."""
    odd.namespace, odd._jobs = namespace, SimpleNamespace()
    with pytest.raises(ConfigError, match="the namespace, of --namespace or of the kubeconfig's context: expected"):
        odd.get("j")


@pytest.mark.parametrize("data", [b"<html>", b"\xff\xfe", b'{"items": null}', b"[1]"])
def test_an_answer_that_is_no_list_and_no_config_map(odd, data):
    """A proxy may answer for any of the requests."""
    odd._core.list_namespaced_pod = lambda *a, **k: SimpleNamespace(data=data)
    odd._core.read_namespaced_config_map = lambda *a, **k: SimpleNamespace(data=data)
    with pytest.raises(ClusterError, match=r"expected a list from the API server, found .*: is it behind a proxy"):
        list(odd.logs("j"))
    if b"items" not in data:
        with pytest.raises(ClusterError, match=r"expected a ConfigMap from the API server, found .*: is it behind"):
            odd._kept(JobView.of(raw("Failed", logs={"configMap": "c"})))


def test_an_answer_that_is_no_text(odd):
    """The Kubernetes package reads every answer as UTF-8."""
    odd._jobs.get_namespaced_custom_object = raising(UnicodeDecodeError("utf-8", b"\xff\xfe", 0, 1, "invalid"))
    with pytest.raises(ClusterError, match=r"j: expected text from the API server, found .*: is it behind a proxy"):
        odd.get("j")


def test_another_job_of_the_name_is_not_waited_for(odd):
    """It was deleted and made anew between two looks: the end of the second one is not that of the first."""
    views = [raw("Running"), raw("Complete")]
    for uid, view in zip("ab", views, strict=True):
        view["metadata"]["uid"] = uid
    for ask in (lambda: odd.wait("j"), lambda: list(odd.logs("j", follow=True))):
        answers = list(views)
        odd._jobs.get_namespaced_custom_object = lambda *a, _from=answers, **k: _from.pop(0)
        with pytest.raises(ClusterError, match="job j was deleted, and another job of that name has been made"):
            ask()
