"""The chart's alerts fire in a real Prometheus that scrapes the operator on the cluster.

Time runs sixty times as fast for the rules: each minute in them is a second here. Nothing else of them is changed.
"""

import contextlib
import json
import re
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CHART = Path(__file__).parents[2] / "charts" / "bagpipe"
SECONDS = {"s": 1, "m": 60, "h": 3600}


@pytest.fixture
def fires(operators, tmp_path):
    """A function that gives the labels of an alert, by its name, once it fires."""
    with contextlib.ExitStack() as stack:
        pods = [pod["metadata"]["name"] for pod in operators.pods()]
        ports = [stack.enter_context(forwarded(pod, operators.namespace)) for pod in pods]
        (tmp_path / "rules.yaml").write_text(hastened(rules()))
        scrape = {"job_name": "bagpipe", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [scrape],
        }
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        address = stack.enter_context(prometheus(tmp_path))
        yield lambda name: labels_of(name, address)


def rules():
    """What the chart installs."""
    command = ["helm", "template", "x", str(CHART), "--set", "prometheusRule.enabled=true"]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return next(d["spec"] for d in yaml.safe_load_all(rendered) if d and d["kind"] == "PrometheusRule")


def hastened(spec):
    """The same rules, where a minute takes a second: every duration, and every age in seconds that is compared with."""

    def shorter(found):
        return f"{max(1, int(found[1]) * SECONDS[found[2]] // 60)}s"

    for group in spec["groups"]:
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"\b(\d+)([smh])\b", shorter, rule["expr"])
            if "oldest_job_seconds" in rule["expr"]:
                rule["expr"] = re.sub(r"> (\d+)", lambda found: f"> {int(found[1]) / 60:g}", rule["expr"])
            if "for" in rule:
                rule["for"] = re.sub(r"(\d+)([smh])", shorter, rule["for"])
    return yaml.safe_dump(spec)


@contextlib.contextmanager
def forwarded(pod: str, namespace: str) -> Iterator[int]:
    """A port of this machine that leads to the metrics of a pod."""
    command = ["kubectl", "--namespace", namespace, "port-forward", f"pod/{pod}", ":8080", "--address=127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as forward:
        try:
            assert forward.stdout is not None
            yield int(re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline())[1])
        finally:
            forward.kill()


@contextlib.contextmanager
def prometheus(folder: Path) -> Iterator[str]:
    """A Prometheus with the configuration in this folder; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # Debian's package has one storage for the whole machine: the series of a test before would live on in it.
    options = ["--storage.tsdb.path=data", f"--web.listen-address={address}", "--log.level=warn"]
    command = ["prometheus", "--config.file=prometheus.yml", *options]
    with (folder / "log").open("w") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as server:
        try:
            yield f"http://{address}"
        finally:
            server.kill()


def labels_of(name, address):
    """Labels of a firing alert; an AssertionError that says what Prometheus sees where it does not fire."""
    try:
        alerts, targets = (
            asked(f"{address}/api/v1/alerts")["alerts"],
            asked(f"{address}/api/v1/targets")["activeTargets"],
        )
    except (urllib.error.URLError, ConnectionError) as error:
        raise AssertionError(f"Prometheus does not answer: {error}") from error
    found = [alert["labels"] for alert in alerts if alert["state"] == "firing" and alert["labels"]["alertname"] == name]
    seen = [(target["scrapeUrl"], target["health"], target["lastError"]) for target in targets]
    assert found, f"{name} does not fire; alerts: {alerts}; targets: {seen}"
    return found[0]


def asked(url):
    """The data of an answer of Prometheus."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)["data"]


def test_a_failed_job_and_a_stuck_one(kube, job, fires):
    """A job that fails is told with its namespace and reason; one that cannot start, after a quarter of an hour."""
    kube.apply(job("bad", env={"STANDIN_EXIT": "oracle:0:0:65"}))
    kube.apply(job("stuck", trainers={"replicas": 1, "resources": {"requests": {"cpu": "1000"}}}))
    failed = kube.until("the failure is told", lambda: fires("BagpipeJobFailed"), 90)
    assert (failed["namespace"], failed["reason"]) == (kube.namespace, "BadData")
    stuck = kube.until("the stuck start is told", lambda: fires("BagpipeJobStuckStarting"), 90)
    assert (stuck["namespace"], stuck["phase"]) == (kube.namespace, "Starting")


def test_no_operator_leads(kube, fires, operators):
    """Two minutes without a leader are told."""
    with operators.down():
        kube.until("the missing leader is told", lambda: fires("BagpipeOperatorWithoutLeader"), 60)
    kube.until("a leader again", operators.leader, 60)
