"""The chart: every switch renders, typos are refused, and what is generated is what is committed."""

import json
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bagpipe.config.yaml_lines import parse

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "charts" / "bagpipe"

PACKED = ROOT.parent / "shared" / "cluster" / "bin" / "k8s.xz"
"""The kit's programs in one file, which is whichever of them it is called; helm is one."""

EVERYTHING = [
    "image.digest=sha256:" + "0" * 64,
    "imagePullSecrets={a}",
    "jobs.imagePullSecrets={b}",
    "kueue.enabled=true",
    "gangSchedulers={Coscheduling,Volcano}",
    "operatorClass=gpu",
    "serviceMonitor.enabled=true",
    "prometheusRule.enabled=true",
    "networkPolicy.apiServer[0].cidr=10.0.0.1/32",
    "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=ops",
    "profiles.x.gpus=2",
    "priorityClassName=high",
    "nodeSelector.a=b",
    "podLabels.a=b",
    "podAnnotations.a=b",
    "serviceAccount.annotations.a=b",
]


@pytest.fixture(scope="module", autouse=True)
def helm(request: pytest.FixtureRequest) -> Iterator[None]:
    """helm is on the PATH: the machine's, or the one that the cluster kit beside this repository brings."""
    if shutil.which("helm") is None and not PACKED.is_file():
        pytest.skip("helm is not installed")
    with pytest.MonkeyPatch.context() as patch:
        if shutil.which("helm") is None:
            folder = unpacked(request.config.cache.mkdir("helm"))
            patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield


def unpacked(folder: Path) -> Path:
    """The folder, with `helm` of the kit's present version in it; it takes two seconds once."""
    program = folder / "helm"
    if not program.is_file() or program.stat().st_mtime < PACKED.stat().st_mtime:
        part = folder / f"helm.{os.getpid()}"
        with lzma.open(PACKED) as packed, part.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
        part.chmod(0o755)
        part.rename(program)
    return folder


def template(*values: str, ok: bool = True) -> list[dict]:
    command = ["helm", "template", "r", str(CHART), "--namespace", "system"]
    for value in values:
        command += ["--set", value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == ok, done.stderr or done.stdout
    # By YAML 1.2, as kubectl reads it: the template engine writes 1e-30, which is text to YAML 1.1.
    documents = re.split(r"^---$", done.stdout, flags=re.MULTILINE)
    return [d for text in documents if (d := parse(text, "chart").value)] if ok else [{"error": done.stderr}]


def kinds(documents: list[dict]) -> list[str]:
    return [d["kind"] for d in documents]


def one(documents: list[dict], kind: str) -> dict:
    return next(d for d in documents if d["kind"] == kind)


def test_defaults():
    """What an ordinary installation consists of."""
    found = kinds(template())
    for kind in (
        "CustomResourceDefinition",
        "Deployment",
        "ServiceAccount",
        "ClusterRole",
        "Role",
        "NetworkPolicy",
        "PodDisruptionBudget",
    ):
        assert kind in found
    assert "ServiceMonitor" not in found and "PrometheusRule" not in found


def test_everything_on():
    """All switches at once render."""
    documents = template(*EVERYTHING)
    assert {"ServiceMonitor", "PrometheusRule"} <= set(kinds(documents))
    assert one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"].endswith(
        "@sha256:" + "0" * 64
    )


@pytest.mark.parametrize(
    "typo", ["replica=1", "image.repo=x", "kueue.enable=true", "replicas=many", "logLevel=loud", "crds.keeps=true"]
)
def test_typos_are_refused(typo):
    """Nothing that has no effect is taken."""
    assert "values" in template(typo, ok=False)[0]["error"].lower()


def test_every_value_is_described():
    """The schema, which is the page on the chart's values, says of each value what it is, and of no other."""

    def undescribed(schema: dict, path: str) -> list[str]:
        inner = [(f"{path}.{name}", known) for name, known in schema.get("properties", {}).items()]
        inner += [(f"{path}[]", schema[key]) for key in ("items", "additionalProperties") if schema.get(key)]
        own = [] if "properties" in schema or schema.get("description") or path.endswith("[]") else [path]
        return own + [name for place, known in inner for name in undescribed(known, place)]

    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    shared = {name: known for name, known in schema["definitions"].items() if "properties" in known}
    assert {"limits", "defaults"} <= shared.keys()
    assert undescribed({"properties": {"values": schema, **shared}}, "") == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("serviceAccount.create=false", "serviceAccount.name: expected the name of an account that exists"),
        ("lease.renewSeconds=10", "lease.renewSeconds: expected less than two thirds of lease.seconds (15), found 10"),
        ("registry=https://ghcr.io", "/registry"),
        ("jobs.defaultClass=a", "jobs.defaultClass: expected a class of jobs.classes (none), found a"),
        ("jobs.classes.A_B.gpuProfile=cpu", "invalid propertyName 'A_B'"),
        ("jobs.classes.a.limits.maxTrainer=1", "maxTrainer"),
        ("jobs.classes.a.images.trainer=https://x", "/images/trainer"),
        ("images.trainer=a:b c", "/images/trainer"),
        ("image.tag=a/b", "/image/tag"),
        ("scope.namespaces={a,a}", "/scope/namespaces"),
        ("lease.namespace=A_B", "/lease/namespace"),
        ("serviceMonitor.interval=often", "/serviceMonitor/interval"),
        (r"podLabels.app\.kubernetes\.io/name=mine", "app.kubernetes.io/name"),
    ],
)
def test_values_that_install_what_cannot_work_are_refused(value, words):
    """What Kubernetes, or the operator in a crash loop, would refuse later is refused by helm, by its name."""
    assert words in template(value, ok=False)[0]["error"]


def test_numbers_and_names_reach_kubernetes_as_they_are(tmp_path):
    """A large number of a values file is not written 1e+09, and a name of digits, or `true`, stays a text."""
    from bagpipe_operator.settings import Settings

    values = {
        "jobs": {"runAsUser": 1000650000},
        "progressSeconds": 1000000,
        "priorityClassName": "true",
        "imagePullSecrets": ["123"],
        "scope": {"namespaces": ["123"]},
        "serviceAccount": {"name": "456"},
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    command = ["helm", "template", "r", str(CHART), "--namespace", "789", "--values", str(tmp_path / "values.yaml")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    documents = [d for part in re.split(r"^---$", text, flags=re.MULTILINE) if (d := parse(part, "chart").value)]
    settings = Settings.of(yaml.safe_load(one(documents, "ConfigMap")["data"]["operator.yaml"]))
    assert (settings.run_as_user, settings.progress_seconds) == (1000650000, 1000000)
    spec = one(documents, "Deployment")["spec"]["template"]["spec"]
    assert (spec["priorityClassName"], spec["serviceAccountName"]) == ("true", "456")
    assert spec["imagePullSecrets"] == [{"name": "123"}]
    for document in documents:
        assert isinstance(document["metadata"].get("namespace", ""), str)
        assert all(isinstance(s["name"] + s["namespace"], str) for s in document.get("subjects", []))


def test_crd_is_kept_or_not():
    """The CRD stays at uninstall unless told otherwise, and can be left out."""
    crd = one(template(), "CustomResourceDefinition")
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert crd["spec"] == yaml.safe_load((CHART / "files" / "crd.yaml").read_text())["spec"]
    assert "helm.sh/resource-policy" not in one(template("crds.keep=false"), "CustomResourceDefinition")[
        "metadata"
    ].get("annotations", {})
    assert "CustomResourceDefinition" not in kinds(template("crds.enabled=false"))


def test_namespaced_mode_has_no_cluster_role():
    """Served namespaces get Roles; without node watching nothing is cluster-wide."""
    documents = template("scope.namespaces={a,b}", "watchNodes=false")
    assert "ClusterRole" not in kinds(documents)
    assert sorted(
        d["metadata"]["namespace"] for d in documents if d["kind"] == "Role" and d["metadata"]["name"] == "r"
    ) == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "lease"),
    [
        ((), ("kube-system", "bagpipe-operator")),
        (("operatorClass=gpu",), ("kube-system", "bagpipe-operator-gpu")),
        (("lease.namespace=leases",), ("leases", "bagpipe-operator")),
        (("scope.namespaces={a}",), ("system", "r")),
    ],
)
def test_one_lease_for_a_class(values, lease):
    """Installations of a class contend for one lease, which is what the role allows; one for namespaces has its own."""
    documents = template(*values)
    role = next(d for d in documents if d["kind"] == "Role" and d["metadata"]["name"] == "r-lease")
    assert (role["metadata"]["namespace"], role["rules"][1]["resourceNames"][0]) == lease
    settings = yaml.safe_load(one(documents, "ConfigMap")["data"]["operator.yaml"])
    assert (settings["leaseNamespace"], settings["leaseName"]) == lease


def test_roles_of_namespaces_cover_jobs():
    """The roles view, edit and admin take in jobs; who may only view changes nothing; namespaced mode makes none."""
    found = {d["metadata"]["name"]: d for d in template() if d["kind"] == "ClusterRole"}
    for role, whom in (("r-view", {"view", "edit", "admin"}), ("r-edit", {"edit", "admin"})):
        labels = found[role]["metadata"]["labels"]
        assert {k.rpartition("-")[2] for k in labels if "aggregate-to" in k} == whom
    verbs = {verb for rule in found["r-view"]["rules"] for verb in rule["verbs"]}
    assert verbs == {"get", "list", "watch"}
    assert "r-edit" not in {d["metadata"]["name"] for d in template("aggregatedRoles=false")}


def test_notes_say_what_comes_next():
    """After an installation three commands are printed, with the release's own name and namespace."""
    command = ["helm", "install", "r", str(CHART), "--namespace", "system", "--dry-run=client"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    notes = done.stdout.partition("NOTES:")[2]
    assert done.returncode == 0 and "helm test r --namespace system" in notes, done.stderr
    assert sum(line.startswith("  ") for line in notes.splitlines()) == 3


def test_one_value_names_the_registry():
    """Operator, trainers and servers come from the registry that one value names."""
    documents = template("registry=ghcr.io/someone")
    container = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    settings = yaml.safe_load(one(documents, "ConfigMap")["data"]["operator.yaml"])
    images = (container["image"], settings["trainerImage"], settings["serverImage"])
    assert images == tuple(f"ghcr.io/someone/bagpipe-{name}:0.1.0" for name in ("operator", "trainer", "server"))


def test_no_secret_is_ever_read():
    """Secrets may be created; no rule reads, lists or changes one, and no rule has a wildcard."""
    for document in template(*EVERYTHING):
        for rule in document.get("rules", []) if document["kind"] in ("Role", "ClusterRole") else []:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            if "secrets" in rule["resources"]:
                assert rule["verbs"] == ["create"]


def test_operator_is_restricted():
    """The operator's pod passes the restricted Pod Security profile."""
    spec = one(template(), "Deployment")["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"] == {
        "type": "RuntimeDefault"
    }
    context = spec["containers"][0]["securityContext"]
    assert context == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_settings_are_the_operators():
    """What the chart writes is what the operator reads, profile by profile."""
    from bagpipe_operator.settings import Settings

    classes = ("jobs.classes.a.gpuProfile=x", "jobs.classes.a.limits.maxTrainers=2000000", "jobs.defaultClass=a")
    text = one(template("profiles.x.gpus=2", "kueue.enabled=true", *classes), "ConfigMap")["data"]["operator.yaml"]
    settings = Settings.of(yaml.safe_load(text))
    assert settings.for_class(None).job_class == settings.job_classes["a"]
    assert settings.job_classes["a"].gpu_profile == "x" and settings.job_classes["a"].limits.max_trainers == 2000000
    assert settings.kueue and settings.profiles["x"].gpus == 2 and "v100" in settings.profiles
    assert (settings.lease_namespace, settings.lease_name) == ("kube-system", "bagpipe-operator")
    assert settings.release == "system/r"


def rendered(*arguments: str, chart: Path = CHART) -> str:
    command = ["helm", "template", "r", str(chart), "--namespace", "system", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def turned(value):
    """The same values in the opposite order, lists of names included."""
    if isinstance(value, dict):
        return {key: turned(value[key]) for key in reversed(value)}
    return value[::-1] if isinstance(value, list) else value


VALUES = {
    "profiles": {"x": {"gpus": 2, "env": {"A": "1", "B": "2"}}, "y": {"imageSuffix": "-a"}},
    "gangSchedulers": ["Coscheduling", "Volcano"],
    "scope": {"namespaces": ["a", "b"]},
    "podAnnotations": {"a": "b", "c": "d"},
    "podLabels": {"a": "b", "c": "d"},
    "jobs": {
        "defaults": {"allRoles": {"labels": {"a": "b", "c": "d"}}, "oracle": {"labels": {"a": "b"}}},
        "classes": {"s": {"limits": {"maxTrainers": 1, "maxServers": 1}}, "t": {"gpuProfile": "x"}},
        "limits": {"maxResources": {"cpu": 1, "memory": "1Gi"}},
    },
}


def test_an_upgrade_with_the_same_values_changes_nothing(tmp_path):
    """Byte for byte, however the values are ordered: `helm diff` is clean, and no operator pod is restarted."""
    everything = [part for value in EVERYTHING for part in ("--set", value)]
    for arguments in ([], everything):
        assert rendered(*arguments) == rendered("--is-upgrade", *arguments)
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(VALUES, sort_keys=False))
    (tmp_path / "turned.yaml").write_text(yaml.safe_dump(turned(VALUES), sort_keys=False))
    one_way, other = (
        sorted(re.split("^---$", rendered("--values", str(tmp_path / name)), flags=re.MULTILINE))
        for name in ("values.yaml", "turned.yaml")
    )
    assert one_way == other and any("checksum/settings" in document for document in one_way)


def test_another_version_of_the_chart_alone_restarts_no_operator(tmp_path):
    """What the pods are made of is the settings and the images; that the chart has another number is none of it."""
    newer = shutil.copytree(CHART, tmp_path / "bagpipe")
    text = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(re.sub("^version: .*$", "version: 99.0.0", text, flags=re.MULTILINE))
    pods = []
    for chart in (CHART, newer):
        documents = [yaml.safe_load(part) for part in re.split("^---$", rendered(chart=chart), flags=re.MULTILINE)]
        pods.append(one([d for d in documents if d], "Deployment")["spec"]["template"])
        assert "labels" in pods[-1]["metadata"]
    assert pods[0] == pods[1]


def test_install_yaml_is_rendered():
    """manifests/install.yaml is what the chart renders."""
    done = subprocess.run([ROOT / "tools" / "render_install.sh"], capture_output=True, text=True, check=True)
    assert (ROOT / "manifests" / "install.yaml").read_text() == done.stdout, "run make manifests"


def test_lint():
    """helm lint has no complaint."""
    done = subprocess.run(["helm", "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_smoke_test_is_for_this_installation():
    """`helm test` makes its job where the operator serves, of its class, in a pod that can be pulled and placed."""
    values = ("operatorClass=a", "scope.namespaces={ml,web}", "imagePullSecrets={s}", "tolerations[0].key=k")
    found = [d for d in template(*values) if "helm.sh/hook" in d["metadata"].get("annotations", {})]
    pod, role = one(found, "Pod"), one(found, "Role")
    assert pod["spec"]["containers"][0]["command"][-2:] == ["ml", "a"] and role["metadata"]["namespace"] == "ml"
    assert pod["spec"]["imagePullSecrets"] == [{"name": "s"}] and pod["spec"]["tolerations"] == [{"key": "k"}]


def test_rules(tmp_path):
    """The alerts fire when they should and not before, also for the first failure of a namespace."""
    if shutil.which("promtool") is None:
        pytest.skip("the alert rules are not tested: promtool is not on the PATH (Debian's package prometheus has it)")
    rule = one(template("prometheusRule.enabled=true"), "PrometheusRule")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    shutil.copy(Path(__file__).with_name("rules_test.yaml"), tmp_path)
    command = ["promtool", "test", "rules", "rules_test.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested():
    """No alert is installed that promtool's tests do not see fire."""
    rule = one(template("prometheusRule.enabled=true"), "PrometheusRule")
    alerts = {r["alert"] for group in rule["spec"]["groups"] for r in group["rules"]}
    tests = yaml.safe_load(Path(__file__).with_name("rules_test.yaml").read_text())["tests"]
    fired = {t["alertname"] for test in tests for t in test["alert_rule_test"] if t["exp_alerts"]}
    assert alerts == fired


def test_a_scrape_gets_through():
    """The chart's NetworkPolicy does not shut out the ServiceMonitor that it installs; without one nobody gets in."""
    port = {"protocol": "TCP", "port": 8080}
    policy = one(template("serviceMonitor.enabled=true"), "NetworkPolicy")
    assert policy["spec"]["ingress"] == [{"ports": [port]}]
    assert one(template(), "NetworkPolicy")["spec"]["ingress"] == []
