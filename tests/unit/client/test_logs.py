"""Which process's log is read and followed, and where it goes on."""

import json
from types import SimpleNamespace

import pytest
from fake_client import Answer, Log, pod, pods, raw, waiting

from bagpipe.client.answers import ClusterError, JobNotFound


def test_follow_waits_for_the_pod_and_goes_on_with_the_next(client):
    """Following waits until there is a pod, reads it to its end, goes on with its successor, and ends with the job."""
    made, views, pods, logs = client
    views[:] = [raw(), raw(), raw(), raw(), raw("Complete", "Completed")]
    first, second = pod("a", 0, index=1, state="waiting"), pod("b", 1, index=1)
    pods[:] = [[], [first], [pod("a", 0, index=1)], [pod("a", 0, index=1), second], [second]]
    logs |= {"pod-a": Log(b"one\ntw", b"o\n"), "pod-b": Log(b"three")}
    assert list(made.logs("j", role="trainer", index=1, follow=True)) == ["one", "two", "three"]


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
