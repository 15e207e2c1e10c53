"""The fake API server answers like a real one: the same claims run on a cluster in `tests/e2e/test_conformance.py`."""

import asyncio

import api_conformance
import pytest
from fake_api import FakeApi, FakeCluster


@pytest.mark.parametrize("claim", api_conformance.CLAIMS, ids=lambda c: c.__name__)
def test_conformance(claim):
    """What the operator relies on in an API server holds in the fake one."""
    asyncio.run(claim(FakeCluster(FakeApi()), "ns"))


def test_a_watch_from_before_a_compaction_is_told_that_it_is_too_old():
    """Events are kept from the last compaction on; before that there is only a 410."""
    api = FakeApi()
    start = api.version
    api.put("ConfigMap", {"metadata": {"name": "a"}})
    assert [kind for kind, _ in api.since(start)] == ["ADDED"]
    api.compact()
    assert [raw["code"] for _, raw in api.since(start)] == [410]
    assert api.since(api.version) == []


@pytest.mark.parametrize(
    "words",
    [
        "Precondition failed: UID in precondition: {uid}, UID in object meta: 12-34",
        "the UID in the precondition ({uid}) does not match the UID in record (12-34)",
    ],
    ids=["the storage's", "the registry's"],
)
def test_both_words_for_another_object_of_the_name(words: str) -> None:
    """An API server has two: of its storage, and of what stands before that."""

    async def go() -> None:
        api = FakeApi()
        made = api.put("ConfigMap", {"metadata": {"name": "a"}})
        uid = made["metadata"]["uid"]
        api.refuse = lambda method, raw: (409, "Conflict", words.format(uid=uid)) if method == "delete" else None
        assert await FakeCluster(api).delete("ConfigMap", "ns", "a", uid) is False

    asyncio.run(go())
