"""The client's own decisions: what a job looks like, how a wait ends, which process's log is followed."""

import json
import socket
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from bagpipe.client.answers import ClusterError, JobNotFound, NotAllowed
from bagpipe.client.jobs import PATIENCE_SECONDS, BagpipeClient, JobFailed, JobView, WaitTimeout
from bagpipe.errors import ConfigError, ExitCode


def raw(phase: str = "Running", reason: str = "", **status) -> dict:
    conditions = [{"type": phase, "status": "True", "reason": reason, "message": "why"}] if reason else []
    metadata = {"name": "j", "namespace": "ns"}
    return {"metadata": metadata, "status": {"phase": phase, "conditions": conditions, **status}}


def pod(uid: str, attempt: int, index: int = 0, restarts: int = 0, state: str = "running") -> dict:
    labels = {"bagpipe.dev/attempt": str(attempt), "batch.kubernetes.io/job-completion-index": str(index)}
    containers = [{"name": "bagpipe", "restartCount": restarts, "state": {state: {}}}]
    metadata = {"name": f"pod-{uid}", "uid": uid, "labels": labels}
    return {"metadata": metadata, "status": {"containerStatuses": containers}}


class Log:
    """A log that comes in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def stream(self):
        return iter(self._pieces)


class FakeClock:
    """Time that passes when somebody pauses, and not otherwise."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def pause(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def client():
    """A client whose cluster is a script: `views` and `pods` are consumed one a call, the last one stays."""
    made = BagpipeClient.__new__(BagpipeClient)
    made.namespace, made._errors, made._clock = "ns", RuntimeError, FakeClock()
    views, pods, logs = [raw()], [[]], {}

    def take(items):
        return items.pop(0) if len(items) > 1 else items[0]

    made._jobs = SimpleNamespace(get_namespaced_custom_object=lambda *a, **k: take(views))
    made._core = SimpleNamespace(
        list_namespaced_pod=lambda *a, **k: SimpleNamespace(data=json.dumps({"items": take(pods)})),
        read_namespaced_pod_log=lambda name, namespace, **k: logs[name],
    )
    return made, views, pods, logs


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


def test_follow_waits_for_the_pod_and_goes_on_with_the_next(client):
    """Following waits until there is a pod, reads it to its end, goes on with its successor, and ends with the job."""
    made, views, pods, logs = client
    views[:] = [raw(), raw(), raw(), raw(), raw("Complete", "Completed")]
    first, second = pod("a", 0, index=1, state="waiting"), pod("b", 1, index=1)
    pods[:] = [[], [first], [pod("a", 0, index=1)], [pod("a", 0, index=1), second], [second]]
    logs |= {"pod-a": Log(b"one\ntw", b"o\n"), "pod-b": Log(b"three")}
    assert list(made.logs("j", role="trainer", index=1, follow=True)) == ["one", "two", "three"]


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


def test_a_restarted_process_in_the_same_pod_is_another_log(client):
    """A server's process restarts in its pod: following goes on with it."""
    made, views, pods, logs = client
    views[:] = [raw(), raw(), raw("Complete", "Completed")]
    pods[:] = [[pod("a", 0)], [pod("a", 0, restarts=1)], [pod("a", 0, restarts=1)]]
    logs |= {"pod-a": Log(b"x\n")}
    assert list(made.logs("j", role="server", follow=True)) == ["x", "x"]


@pytest.mark.parametrize("follow", [False, True])
def test_last_lines_of_a_pod_that_is_gone(client, follow):
    """Of a pod that is gone there is what the operator kept; what it did not keep is an error."""
    made, views, _, _ = client
    views[:] = [raw("Failed", "DeadlineExceeded", logs={"configMap": "j-logs"})]
    data = json.dumps({"data": {"trainer-1.log": "one\ntwo\nthree\n"}})
    made._core.read_namespaced_config_map = lambda name, *a, **k: SimpleNamespace(data=data if name == "j-logs" else "")
    assert list(made.logs("j", role="trainer", index=1, follow=follow)) == ["one", "two", "three"]
    assert list(made.logs("j", role="trainer", index=1, follow=follow, tail=2)) == ["two", "three"]
    if not follow:
        with pytest.raises(JobNotFound, match="no pod of trainer 0 now; it is Failed"):
            list(made.logs("j", role="trainer", index=0))


def test_the_telling_condition_is_shown():
    """Of several conditions the one that explains the phase."""
    view = JobView.of(raw("Failed", "Unschedulable"))
    assert (view.phase, view.reason, view.message, view.finished) == ("Failed", "Unschedulable", "why", True)


class Answer(RuntimeError):
    """An answer of 400 or above, as the Kubernetes client raises it."""

    def __init__(self, status, message="", reason="Not Found") -> None:
        super().__init__(message)
        self.status, self.reason = status, reason
        status = {"kind": "Status", "message": message, "reason": "AlreadyExists" if "exists" in message else "Any"}
        self.body = json.dumps(status) if message else "404 page not found"


def raising(error):
    def call(*_, **__):
        raise error

    return call


@pytest.fixture
def odd():
    """A client of a cluster in which one running job is all that there is."""
    made = BagpipeClient.__new__(BagpipeClient)
    made.namespace, made._errors, made._clock = "ns", Answer, FakeClock()
    job = {**raw("Running"), "metadata": {"name": "j", "namespace": "ns", "uid": "u"}}
    made._jobs = SimpleNamespace(get_namespaced_custom_object=lambda *a, **k: job)
    empty = SimpleNamespace(data='{"items": []}')
    made._core = SimpleNamespace(list_namespaced_pod=lambda *a, **k: empty, list_namespaced_event=lambda *a, **k: empty)
    return made


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


def waiting(reason, **more):
    """A pod whose process waits, beside a container that a pod template added and that runs."""
    found = pod("a", 0)
    main = {"name": "bagpipe", "restartCount": 2, "state": {"waiting": {"reason": reason}}, **more}
    found["status"]["containerStatuses"] = [{"name": "a-sidecar", "state": {"running": {}}}, main]
    return found


def pods(odd, *found):
    odd._core.list_namespaced_pod = lambda *a, **k: SimpleNamespace(data=json.dumps({"items": found}))


def test_a_process_that_has_not_started_is_waited_for_only_if_asked(odd):
    """The command ends with the reason why there is no log; it waited for ever, in silence."""
    pods(odd, waiting("ImagePullBackOff"))
    with pytest.raises(ClusterError, match=r"oracle 0 of job j has not started \(ImagePullBackOff\); --follow waits"):
        list(odd.logs("j"))
    assert odd._clock.now() == 0


def test_a_process_that_waits_to_start_again_has_a_log(odd):
    """In CrashLoopBackOff the log of the process before is what one looks for."""
    found = waiting("CrashLoopBackOff", lastState={"terminated": {"exitCode": 1}})
    del found["status"]["containerStatuses"][0]
    pods(odd, found)
    odd._core.read_namespaced_pod_log = lambda *a, **k: Log(b"boom\n")
    assert list(odd.logs("j", role="oracle", previous=True)) == ["boom"]


def test_labels_of_pods_are_hints(odd):
    """A label of a pod may hold anything: any user who may change pods can write it."""
    wrong, newer = pod("a", 0), pod("b", 1)
    wrong["metadata"]["labels"]["bagpipe.dev/attempt"] = "foo"
    pods(odd, wrong, newer)
    odd._core.read_namespaced_pod_log = lambda name, *a, **k: Log(name.encode())
    assert list(odd.logs("j", role="trainer")) == ["pod-b"]


def test_a_log_that_is_cut(odd):
    """A connection that ends in the middle of a log is told as any other that is lost."""
    from urllib3.exceptions import ProtocolError

    def stream():
        yield b"one\n"
        raise ProtocolError("Connection broken")

    pods(odd, pod("a", 0))
    odd._core.read_namespaced_pod_log = lambda *a, **k: SimpleNamespace(stream=stream)
    lines = odd.logs("j")
    assert next(lines) == "one"
    with pytest.raises(ClusterError, match="pod-a: the API server cannot be reached: Connection broken"):
        next(lines)


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


@pytest.mark.parametrize(
    "text",
    ["[1, 2]", "a: {", "just words", "\x00\x01", "apiVersion: v1\nclusters: 5\ncontexts: x\ncurrent-context: y\n", ""],
)
def test_a_kubeconfig_that_is_none(tmp_path, monkeypatch, text):
    """Whatever the file contains, its path and one line."""
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ConfigError) as caught:
        BagpipeClient()
    assert "\n" not in str(caught.value)


def test_a_kubeconfig_that_cannot_be_read(tmp_path, monkeypatch):
    """A folder, or a file that is no text, is told with its path."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "bytes"):
        monkeypatch.setenv("KUBECONFIG", str(path))
        with pytest.raises((ConfigError, OSError)) as caught:
            BagpipeClient()
        assert str(path) in str(caught.value)


def test_a_command_for_credentials_that_fails_is_told(tmp_path, monkeypatch):
    """The command that a kubeconfig names may be missing, or its login have expired: nothing is asked without one."""
    path = tmp_path / "kubeconfig"
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin"}}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "a", "user": user}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    }
    path.write_text(json.dumps(document))
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ConfigError, match=r"credentials failed: .*no-such-plugin.*; log in again"):
        BagpipeClient()
    document["users"][0]["user"] = {}
    path.write_text(json.dumps(document))
    assert BagpipeClient().namespace == "default"


def kubeconfig(path, server: str):
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": server}}],
        "users": [{"name": "a", "user": {}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    }
    path.write_text(json.dumps(document))
    return str(path)


@contextmanager
def answering(*answers: bytes):
    """A server on loopback that answers each connection with the next of these, the last one again and again.

    Yields its address, and what it was asked so far.
    """
    taken, left = [], list(answers)

    def serve():
        with suppress(OSError):  # It does not listen any more.
            while True:
                connection, _ = listening.accept()
                with connection:
                    taken.append(connection.recv(65536))
                    connection.sendall(left.pop(0) if len(left) > 1 else left[0])

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", taken
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def http(status: str, body: str = "", *headers: str) -> bytes:
    """An answer, after which the connection is closed."""
    head = [f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


JOB = http("200 OK", json.dumps(raw("Complete")), "Content-Type: application/json")
UNAUTHORIZED = http("401 Unauthorized", '{"kind": "Status", "message": "Unauthorized"}')


def with_token(path, server: str, token: str) -> None:
    """Write a kubeconfig whose user has this token."""
    document = json.loads(Path(kubeconfig(path, server)).read_text())
    document["users"][0]["user"] = {"token": token}
    path.write_text(json.dumps(document))


def test_credentials_are_read_again_once(tmp_path, monkeypatch):
    """A token expires during a wait: the new one of the file is used; without one a line says what to do."""
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))
    with answering(UNAUTHORIZED, JOB, UNAUTHORIZED) as (server, asked):
        with_token(path, server, "old")
        made = BagpipeClient()
        with_token(path, server, "new")
        assert made.wait("j").phase == "Complete"
        assert [b"Bearer old" in asked[0], b"Bearer new" in asked[1], len(asked)] == [True, True, 2]
        with pytest.raises(NotAllowed, match=r"401: Unauthorized; log in again: .* these credentials, also read anew"):
            made.wait("j")
        assert len(asked) == 4
        path.write_text(path.read_text().replace(server, "http://127.0.0.1:9"))
        with pytest.raises(NotAllowed):  # The context's name is that of another cluster now.
            made.wait("j")
        assert len(asked) == 5


def test_another_context_is_not_taken_for_new_credentials(tmp_path, monkeypatch):
    """`kubectl config use-context` elsewhere, meanwhile, does not lead the command to another cluster."""
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))
    with answering(UNAUTHORIZED, JOB) as (server, asked):
        with_token(path, server, "old")
        made = BagpipeClient()
        document = json.loads(path.read_text())
        document["users"] += [{"name": "b", "user": {"token": "elsewhere"}}]
        document["contexts"] += [{"name": "b", "context": {"cluster": "a", "user": "b"}}]
        path.write_text(json.dumps({**document, "current-context": "b"}))
        assert made.get("j").phase == "Complete" and b"Bearer old" in asked[1]


def test_a_redirect_to_a_login_is_told(tmp_path, monkeypatch):
    """By its address, without the secrets of its query; a redirect on the same host is followed."""
    away = http("302 Found", "", "Location: https://login.example/start?state=secret")
    with answering(away) as (server, asked):
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", server))
        with pytest.raises(ClusterError, match=r"redirect to https://login\.example/start came in its place") as caught:
            BagpipeClient().get("j")
        assert "secret" not in str(caught.value) and len(asked) == 1
    with answering(http("302 Found", "", "Location: /elsewhere"), JOB) as (server, asked):
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", server))
        assert BagpipeClient().get("j").phase == "Complete" and asked[1].startswith(b"GET /elsewhere")


def test_an_api_server_that_says_come_back_in_an_hour_is_told_at_once(tmp_path, monkeypatch):
    """The answer is the user's to see; the command slept for as long as `Retry-After` said."""
    answer = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with answering(answer) as (server, asked):
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", server))
        slept = []
        monkeypatch.setattr("time.sleep", slept.append)
        with pytest.raises(ClusterError, match="the API server answered 429"):
            BagpipeClient().get("j")
    assert len(asked) == 1 and slept == []


def test_an_api_server_that_never_answers_is_asked_once(tmp_path, monkeypatch):
    """A request lasts as long as it says: it was sent four times over, each with the whole time."""
    with socket.create_server(("127.0.0.1", 0)) as listening:  # The system connects, and nobody answers.
        server = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", server))
        monkeypatch.setattr("bagpipe.client.jobs.REQUEST_SECONDS", 0.05)
        with pytest.raises(ClusterError, match="Read timed out"):
            BagpipeClient().get("j")
        listening.setblocking(False)
        listening.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listening.accept()


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


def test_a_dead_connection_is_noticed(tmp_path, monkeypatch):
    """A log that is followed may be silent for hours, so the system asks whether the other end is still there."""
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:9"))
    options = BagpipeClient()._core.api_client.configuration.socket_options
    assert (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1) in options


def test_only_a_followed_log_may_be_silent(odd):
    """Without --follow the API server has 30 s to send the next piece, as for every other request."""
    asked = []
    pods(odd, pod("a", 0))
    odd._core.read_namespaced_pod_log = lambda *a, **k: asked.append(k["_request_timeout"]) or Log(b"")
    assert list(odd.logs("j")) == []
    views = [raw("Running"), raw("Complete")]
    odd._jobs.get_namespaced_custom_object = lambda *a, **k: views.pop(0) if len(views) > 1 else views[0]
    assert list(odd.logs("j", follow=True)) == [] and asked == [(30, 30), *[(30, None)] * 2]


def stamped(*seconds: int, fraction: int = 0) -> bytes:
    """Lines of a log that was asked for with times; each says its second."""
    return b"".join(b"2026-01-01T00:00:%02d.%09dZ line %d.%d\n" % (s, fraction, s, fraction) for s in seconds)


@pytest.fixture
def cut(odd):
    """A client of a job whose oracle's log comes in streams, each asked for when the one before has ended.

    Before the last stream the process has ended. Yields the client, the streams, and what was asked for each.
    """
    streams, asked = [], []

    def read(**options):
        asked.append(options)
        if len(streams) == 2:
            pods(odd, pod("a", 0, state="terminated"))
        return streams.pop(0) if streams else Log(b"")

    def by_query(*_, query_params, **__):
        return read(**dict(query_params))

    def get(*_, **__):
        return raw("Running" if streams else "Complete")

    pods(odd, pod("a", 0))
    odd._jobs.get_namespaced_custom_object = get
    odd._core.read_namespaced_pod_log = lambda *a, **k: read(**k)
    odd._core.api_client = SimpleNamespace(call_api=by_query)
    return odd, streams, asked


def test_a_followed_log_whose_stream_ends_goes_on(cut):
    """A proxy ended the stream while the process ran: nothing came any more until the job ended."""
    made, streams, asked = cut
    again = stamped(2, 3) + stamped(3, fraction=5)
    streams[:] = [
        Log(stamped(1, 2, 3), b"2026-01-01T00:00:03.0000"),
        Log(again, stamped(4)),
        Log(stamped(3, 4), b"no time"),
    ]
    expected = ["line 1.0", "line 2.0", "line 3.0", "line 3.5", "line 4.0", "no time"]
    assert list(made.logs("j", follow=True)) == expected
    assert [one.get("sinceTime") for one in asked[:3]] == [None, "2026-01-01T00:00:02Z", "2026-01-01T00:00:03Z"]
    assert made._clock.now() < 10


def test_equal_lines_are_as_many_as_were_written(cut):
    """A process may write one line twice in one moment; what is dropped is what was shown, not what looks like it."""
    made, streams, _ = cut
    streams[:] = [Log(stamped(1, 1)), Log(stamped(1, 1, 1)), Log(b"")]
    assert list(made.logs("j", follow=True)) == ["line 1.0"] * 3


@pytest.mark.parametrize(("tail", "first"), [(0, []), (1, ["line 2.0"]), (2, ["line 1.9", "line 2.0"])])
def test_the_tail_of_a_log_is_cut_once(cut, tail, first):
    """Lines that --tail left out do not come back with the second stream; those that came meanwhile do."""
    made, streams, _ = cut
    whole = stamped(1) + stamped(1, fraction=9) + stamped(2)
    kept = whole.splitlines(keepends=True)[-max(tail, 1) :]
    streams[:] = [*([Log(*kept)] if tail == 0 else []), Log(*kept), Log(whole, stamped(3)), Log(stamped(2, 3))]
    assert list(made.logs("j", follow=True, tail=tail)) == [*first, "line 3.0"]


def test_a_stream_that_ends_at_once_is_asked_for_less_and_less(cut):
    """A proxy that ends every stream is not asked without a pause, and half a minute is the longest one."""
    made, streams, asked = cut
    streams[:] = [Log(b"")] * 20
    assert list(made.logs("j", follow=True)) == [] and len(asked) == 20
    assert made._clock.now() == 2 + 4 + 8 + 16 + 15 * 30


def test_a_followed_log_outlasts_a_node_that_is_away(cut):
    """What cannot be read for a moment is read then; what stays away is told."""
    made, streams, _ = cut
    read, failures = made._core.read_namespaced_pod_log, [Answer(502, "node away")] * 5

    def failing(*args, **options):
        if failures:
            raise failures.pop()
        return read(*args, **options)

    streams[:] = [Log(stamped(1)), Log(stamped(1, 2))]
    made._core.read_namespaced_pod_log = failing
    assert list(made.logs("j", follow=True)) == ["line 1.0", "line 2.0"]
    streams[:], failures[:] = [Log(b"")] * 9, [Answer(502, "node away")] * 1000
    with pytest.raises(ClusterError, match="502: node away"):
        list(made.logs("j", follow=True))


def test_an_older_attempt_is_not_followed_after_a_newer_one(odd):
    """A pod of an attempt that is over may still be there; its log came after that of the newest one."""
    pods(odd, pod("a", 0, state="terminated"), pod("b", 1, state="terminated"))
    views = [raw("Running"), raw("Running"), raw("Complete")]
    odd._jobs.get_namespaced_custom_object = lambda *a, **k: views.pop(0) if len(views) > 1 else views[0]
    odd._core.read_namespaced_pod_log = lambda name, *a, **k: Log(name.encode())
    assert list(odd.logs("j", follow=True)) == ["pod-b"]


def test_a_line_of_many_pieces(odd):
    """Its pieces are joined once, at its end; a progress bar of gigabytes has no newline."""
    pods(odd, pod("a", 0))
    odd._core.read_namespaced_pod_log = lambda *a, **k: Log(b"a\nb", b"c", b"", b"d\r\n\ne", b"\xff\n", b"f", b"g")
    assert list(odd.logs("j")) == ["a", "bcd\r", "", "e\ufffd", "fg"]


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


def test_a_context_that_there_is_not_is_no_reason_to_use_the_pods_own_account(tmp_path, monkeypatch):
    """In a pod a context that is misspelled must not lead to another cluster's job."""
    monkeypatch.setenv("KUBECONFIG", kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:9"))
    monkeypatch.setattr("bagpipe.client.connection.Path.exists", lambda self: True)
    with pytest.raises(ConfigError, match=r"no cluster: .*with name elsewhere in .*name a context of it"):
        BagpipeClient(context="elsewhere")


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
