"""Rules that tie several settings together: contradictions, and settings that would have no effect.

A setting without effect is an error, because the user who wrote it expects one. "Given" means that its value differs
from the default, so a resolved job (every default written out) passes.
"""

from collections.abc import Callable, Iterator

from bagpipe.config.column_rules import column_findings
from bagpipe.config.document import (
    DataConfig,
    EmbeddingConfig,
    Job,
    JobSpec,
    ServerConfig,
    TrainerConfig,
)
from bagpipe.config.given import Finding, given, without_effect
from bagpipe.config.losses import CHOICE
from bagpipe.config.model import MODEL_SETTINGS, OWN_LOSS, ModelConfig
from bagpipe.config.oov import oov_findings
from bagpipe.config.parts import part_findings, paths_in
from bagpipe.config.paths import is_url, shown
from bagpipe.config.recipe_rules import dense_optimizer_findings, row_optimizer_findings, table_override_findings
from bagpipe.errors import ConfigError

GREATEST_PORT = 65_535
LARGEST_FILE = 2**62
"""Bytes. Offsets into files of rows are signed integers of 64 bits, and the sum of two of them must fit as well."""
LARGEST_ELEMENT = 12
"""Bytes of one float of a row with its optimizer's state (adam)."""


def check_rules(job: Job, where: Callable[[str], str] = lambda dotted: "job") -> None:
    """Refuse a job that contradicts itself; `where` gives the place in the file of a dotted field.

    Raises:
        ConfigError: the first finding.
    """
    for dotted, problem in findings(job.spec):
        raise ConfigError(f"{where(dotted)}: {dotted}: {problem}")


def findings(spec: JobSpec) -> Iterator[Finding]:
    """Everything that is wrong with a well-typed spec."""
    yield from _model(spec.model)
    yield from _data(spec.data)
    yield from column_findings(spec.data, spec.model)
    yield from oov_findings(spec.data, spec.embedding)
    yield from _embedding(spec.embedding)
    yield from _folders(spec)
    yield from row_optimizer_findings("spec.embedding.optimizer", spec.embedding.optimizer)
    yield from table_override_findings("spec.embedding.overrides", spec.embedding.optimizer, spec.embedding.overrides)
    yield from dense_optimizer_findings("spec.optimizer", spec.optimizer)
    if spec.batch_size < spec.trainers.replicas:
        few = f"{spec.batch_size} examples cannot be shared by {spec.trainers.replicas} trainers"
        yield "spec.batchSize", f"{few}; raise batchSize or lower trainers.replicas"
    stopping = spec.evaluation.early_stopping
    if stopping is not None and not spec.evaluation.every:
        yield "spec.evaluation.earlyStopping", "has no effect without evaluation.every; set that, or remove it"
    yield from _ports("spec.servers", spec.servers)
    yield from _ports("spec.trainers", spec.trainers)


def _folders(spec: JobSpec) -> Iterator[Finding]:
    """Only data is read at a URL: what is written there would be in a folder of that name, in a pod that ends."""
    run = spec.init_from.run if spec.init_from else None
    for setting, path in (("spec.checkpoint.path", spec.checkpoint.path), ("spec.initFrom.run", run)):
        if path and is_url(path):
            shared = "a folder that trainers and servers share, on a cluster of a volume"
            yield setting, f"{shown(path)} is a URL, at which only data can be; expected {shared}"


def _ports(prefix: str, role: ServerConfig | TrainerConfig) -> Iterator[Finding]:
    """Each process of a role takes the port after its predecessor's."""
    last = role.port + role.replicas - 1
    if role.port and last > GREATEST_PORT:
        wanted = f"{role.replicas} processes would listen on ports {role.port} to {last}"
        yield (
            f"{prefix}.port",
            f"{wanted}; expected at most {GREATEST_PORT}, choose a lower port or 0 for any free ones",
        )


def _model(model: ModelConfig) -> Iterator[Finding]:
    every = dict.fromkeys(name for names in MODEL_SETTINGS.values() for name in names)
    if model.loss == CHOICE:
        yield from without_effect("spec.model", model, ("taskWeights",), "with the loss softmax, which has one task")
        if model.name == "sasrec" and (model.positions or 1) > 1 and model.entrypoint is None:
            yield "spec.model.loss", "softmax: sasrec's candidates belong to several places; set positions: 1"
    if model.entrypoint is None:
        if model.name in MODEL_SETTINGS:
            own = MODEL_SETTINGS[model.name]
            useless = [name for name in every if name not in own] + ["loss", "taskWeights"] * (model.name in OWN_LOSS)
            because = f"on {model.name}, which has {', '.join(own)}"
            yield from without_effect("spec.model", model, useless, because)
        if model.interaction == "cat":
            yield from without_effect("spec.model", model, ("interactionItself",), "with interaction cat; it needs dot")
        return
    because = "with entrypoint (a model of your own takes its settings from args)"
    yield from without_effect("spec.model", model, ("name", *every), because)
    module, _, name = model.entrypoint.partition(":")
    if not module or not name:
        yield "spec.model.entrypoint", f"expected package.module:Class, found {model.entrypoint!r}"


def _data(data: DataConfig) -> Iterator[Finding]:
    path = data.path or paths_in(data.train)
    paths = (path,) if isinstance(path, str) else path
    if data.format == "synthetic":
        own = [name for name in ("train", "validation", "test") if paths_in(getattr(data, name))]
        yield from without_effect("spec.data", data, ("path", *own), "with format synthetic")
    elif not paths or not all(paths):
        yield "spec.data.path", "missing; name a file, a list, a folder, a glob or a URL, or use format: synthetic"
    else:
        yield from without_effect("spec.data", data, ("synthetic",), f"with format {data.format}; it needs synthetic")
    yield from part_findings(data)
    if data.encoding in ("ids", "vocabulary"):
        yield from without_effect("spec.data", data, ("hashSize",), f"with encoding {data.encoding}; it needs hash")
    if data.encoding != "vocabulary" and not (data.encoding == "auto" and data.columns is not None):
        because = f"with encoding {data.encoding}; it needs encoding: vocabulary"
        for name in given(data, ("minCount", "numericBins", "oov")):
            yield f"spec.data.{name}", f"has no effect {because}; set that, or remove {name}"
    if data.shuffle == "never":
        yield from without_effect("spec.data", data, ("shuffleWindow",), "with shuffle never")


def _embedding(embedding: EmbeddingConfig) -> Iterator[Finding]:
    if not embedding.tables:
        return
    yield from without_effect("spec.embedding", embedding, ("dim",), "when tables are listed (each has embeddingDim)")
    listed = "when tables are listed (each has pooling and featurePooling)"
    yield from without_effect("spec.embedding", embedding, ("pooling",), listed)
    yield from _duplicates("spec.embedding.tables", "table", [t.name for t in embedding.tables])
    yield from _duplicates("spec.embedding.tables", "feature", [f for t in embedding.tables for f in t.feature_names])
    size = sum(table.num_embeddings * table.embedding_dim for table in embedding.tables) * LARGEST_ELEMENT
    if size > LARGEST_FILE:
        yield "spec.embedding.tables", f"all rows together take {size:.3g} bytes; expected at most {LARGEST_FILE:.3g}"
    for index, table in enumerate(embedding.tables):
        if not table.feature_names:
            yield f"spec.embedding.tables[{index}].featureNames", "empty; name the features that look rows up here"
        for feature in table.feature_pooling.keys() - set(table.feature_names):
            field = f"spec.embedding.tables[{index}].featurePooling"
            yield field, f"{feature!r} is no feature of this table; it has {', '.join(table.feature_names)}"


def _duplicates(field: str, what: str, names: list[str]) -> Iterator[Finding]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield field, f"{what} {name!r} is listed twice; give each {what} once"
            return


def fixed_lookahead(spec: JobSpec) -> int:
    """The lookahead of a resolved job, in which it is a number and not `auto`."""
    assert spec.lookahead != "auto"
    return spec.lookahead
