"""Nodes that are gone, or do not answer: when their pods are, and what that costs."""


def test_lost_node_frees_its_pods_by_force(world):
    """A pod that should be gone is removed by force only when its node is known to be lost for long enough."""
    w = world({"runPolicy": {"nodeLostSeconds": 30}}).run()
    w.slow_deletion = True
    for pod in w.live_pods():
        pod["spec"]["nodeName"] = "n1"
    w.pod("trainer", 1)["spec"]["nodeName"] = "dead"
    w.delete_pod(w.pod("trainer", 1))
    w.end(w.pod("trainer", 0), 75)
    w.settle()
    assert w.status["attempt"] == 1 and w.looked_at == set()
    w.after(61)
    assert w.looked_at == {"dead"} and len(w.pods("trainer")) >= 1
    w.lost_nodes = {"dead": w.now}
    w.after(29)
    assert any(p["spec"]["nodeName"] == "dead" for p in w.live_pods("trainer"))
    w.after(1)
    assert not any(p["spec"].get("nodeName") == "dead" for p in w.live_pods("trainer"))


def test_a_lost_node_with_all_trainers_and_the_oracle(world):
    """Nobody is left to fail for want of a peer, and their Jobs keep the pods also when they are removed by force."""
    w = world({"runPolicy": {"nodeLostSeconds": 30}}).run()
    w.slow_deletion = True
    for pod in (*w.live_pods("trainer"), *w.live_pods("oracle")):
        pod["spec"]["nodeName"] = "dead"
        taken = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
        pod["status"]["conditions"] = [taken]
        w.delete_pod(pod)
    w.after(61)
    assert w.looked_at == {"dead"} and w.status["attempt"] == 0
    w.lost_nodes = {"dead": w.now}
    w.after(29)
    assert w.status["attempt"] == 0
    w.after(1)
    assert (w.status["attempt"], w.status["disruptions"], w.status["restarts"]) == (1, 1, 0)
    assert w.status["lastFailure"]["reason"] == "NodeLost"
    for _ in range(3):
        w.let_go().settle()
    w.after(60).run()
    assert w.is_true("Running") and all(p["spec"]["nodeName"] == "n1" for p in w.live_pods())


def test_a_pod_that_was_never_scheduled_has_no_node_to_look_at(world):
    """The job waits for a deleted pod without a node like for any other, but looks at no node because of it."""
    w = world({"runPolicy": {"nodeLostSeconds": 30}}).run()
    w.slow_deletion = True
    w.pod("trainer", 1)["spec"].pop("nodeName", None)
    w.end(w.pod("trainer", 0), 75)
    w.settle()
    w.after(61)
    assert "" not in w.looked_at and w.live_pods("trainer")


def test_reachable_node_is_waited_for(world):
    """However late a pod is, on a node that is there it is never removed by force."""
    w = world().run()
    w.slow_deletion = True
    w.end(w.pod("trainer", 0), 1)
    w.after(10_000)
    assert w.live_pods("trainer") and w.status["attempt"] == 1
