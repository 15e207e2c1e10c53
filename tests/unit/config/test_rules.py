"""Rules between settings: contradictions, and settings that would have no effect."""

import pytest

from bagpipe.config.document import JobSpec
from bagpipe.config.load import dump_job, parse_job
from bagpipe.errors import ConfigError

FILE = "spec:\n  data: {path: train.txt}\n"
SYNTHETIC = "spec:\n  data: {format: synthetic}\n"
A = "{name: a, numEmbeddings: 3, embeddingDim: 4, featureNames: [x]}"
B = "{name: b, numEmbeddings: 3, embeddingDim: 4, featureNames: [y]}"

REFUSED = [
    (FILE, "batchSize=3 trainers.replicas=4", "spec.batchSize: 3 examples cannot be shared by 4 trainers; "),
    (FILE, "data.path=[]", "spec.data.path: missing; "),
    (FILE, "data.path=''", "spec.data.path: missing; "),
    (SYNTHETIC, "data.path=x", "spec.data.path: has no effect with format synthetic; "),
    (FILE, "data.synthetic={examples: 5}", "spec.data.synthetic: has no effect with format auto; "),
    (FILE, "data.minCount=2", "spec.data.minCount: has no effect with encoding auto; it needs encoding: vocabulary; "),
    (FILE, "data.encoding=hash data.numericBins=log-squared", "spec.data.numericBins: has no effect with encoding hash; "),
    (FILE, "data.encoding=ids data.hashSize=5", "spec.data.hashSize: has no effect with encoding ids; "),
    (FILE, "data.shuffleWindow=5", "spec.data.shuffleWindow: has no effect with shuffle never"),
    (FILE, "embedding.optimizer.momentum=0.9", "spec.embedding.optimizer.momentum: has no effect on adagrad"),
    (FILE, "embedding.optimizer.name=sgd embedding.optimizer.eps=1", "spec.embedding.optimizer.eps: has no effect on sgd"),
    (FILE, "embedding.optimizer.beta1=0.5", "spec.embedding.optimizer.beta1: has no effect on adagrad"),
    (FILE, "embedding.optimizer.name=adam embedding.optimizer.initialAccumulator=1", "spec.embedding.optimizer.initialAccumulator: has no effect on adam"),
    (FILE, "optimizer.momentum=0.9", "spec.optimizer.momentum: has no effect on adam; it needs sgd"),
    (FILE, "model.entrypoint=m:C model.bottomMlp=[3]", "spec.model.bottomMlp: has no effect with entrypoint"),
    (FILE, "model.entrypoint=m:C model.dropout=0.1", "spec.model.dropout: has no effect with entrypoint"),
    (FILE, "model.crossRank=3", "spec.model.crossRank: has no effect on dlrm, which has bottomMlp, overMlp, interaction, interactionItself; remove it"),
    (FILE, "model.name=caser model.loss=mse", "spec.model.loss: has no effect on caser"),
    (FILE, "model.interaction=cat model.interactionItself=true", "spec.model.interactionItself: has no effect with interaction cat; it needs dot"),
    (FILE, "model.entrypoint=mC", "spec.model.entrypoint: expected package.module:Class, found 'mC'"),
    (FILE, f"embedding.tables=[{A},{A}]", "spec.embedding.tables: table 'a' is listed twice; "),
    (FILE, f"embedding.tables=[{A},{B.replace('[y]', '[x]')}]", "spec.embedding.tables: feature 'x' is listed twice; "),
    (FILE, f"embedding.tables=[{A.replace('[x]', '[]')}]", "spec.embedding.tables[0].featureNames: empty; "),
    (FILE, "embedding.tables=[{name: a, numEmbeddings: 1099511627776, embeddingDim: 65536, featureNames: [x]}," + ",".join(f" {{name: t{i}, numEmbeddings: 1099511627776, embeddingDim: 65536, featureNames: [f{i}]}}" for i in range(6)) + "]", "spec.embedding.tables: all rows together take 6.05e+18 bytes; expected at most 4.61e+18"),
    (FILE, "servers.port=65535 servers.replicas=2", "spec.servers.port: 2 processes would listen on ports 65535 to 65536; expected at most 65535"),
    (FILE, "trainers.port=65000 trainers.replicas=600", "spec.trainers.port: 600 processes would listen on ports 65000 to 65599"),
    (FILE, "data.oov=4", "spec.data.oov: has no effect with encoding auto; it needs encoding: vocabulary; "),
    (FILE, f"data.encoding=vocabulary data.oov={{aa: 1}} embedding.tables=[{A}]", "spec.data.oov: 'aa' is no table; did you mean 'a'?"),
    (FILE, f"data.encoding=vocabulary data.oov={{a: 3}} embedding.tables=[{A}]", "spec.data.oov: 3 of 3 rows of table a; leave rows for"),
    (FILE, f"embedding.tables=[{A}] embedding.dim=8", "spec.embedding.dim: has no effect when tables are listed"),
    (FILE, f"embedding.tables=[{A}] embedding.pooling={{x: mean}}", "spec.embedding.pooling: has no effect when tables are listed (each has pooling and featurePooling)"),
    (FILE, "embedding.tables=[{name: a, numEmbeddings: 3, embeddingDim: 4, featureNames: [x], featurePooling: {y: mean}}]", "spec.embedding.tables[0].featurePooling: 'y' is no feature of this table; it has x"),
]  # fmt: skip


def overrides(text: str) -> list[str]:
    """Split at blanks that begin another `path=`."""
    parts: list[str] = []
    for word in text.split(" "):
        if parts and ("=" not in word or word.startswith(("{", "["))):
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    return parts


@pytest.mark.parametrize(("text", "settings", "expected"), REFUSED, ids=[r[1][:60] for r in REFUSED])
def test_refused(text: str, settings: str, expected: str) -> None:
    """A setting that contradicts another, or changes nothing, is refused by name with a remedy."""
    with pytest.raises(ConfigError) as caught:
        parse_job(text, "job.yaml", overrides(settings))
    place, found, message = str(caught.value).partition(": spec.")
    assert (found + message).removeprefix(": ").startswith(expected)
    assert place.startswith(("--set ", "job.yaml"))


ACCEPTED = [
    (FILE, "data.encoding=vocabulary data.minCount=10 data.numericBins=log-squared"),
    (FILE, "data.encoding=hash data.hashSize=500 data.shuffle=after-first data.shuffleWindow=100"),
    (FILE, "embedding.optimizer.name=sgd embedding.optimizer.momentum=0.9"),
    (FILE, "embedding.optimizer.name=adam embedding.optimizer.beta2=0.9"),
    (FILE, "optimizer.name=sgd optimizer.momentum=0.9"),
    (SYNTHETIC, "data.synthetic={examples: 5} batchSize=4 trainers.replicas=4"),
    (FILE, f"embedding.tables=[{A},{B}]"),
    (FILE, f"data.encoding=vocabulary data.oov={{a: 2, '*': 1}} embedding.tables=[{A},{B}]"),
    (FILE, "data.encoding=vocabulary data.oov={C1: 2}"),
    (FILE, "data.path=[a.txt, b.txt]"),
]


@pytest.mark.parametrize(("text", "settings"), ACCEPTED, ids=[a[1][:60] for a in ACCEPTED])
def test_accepted_also_when_written_out(text: str, settings: str) -> None:
    """What makes sense passes, and passes again with every default written out."""
    job = parse_job(text, "job.yaml", overrides(settings))
    assert isinstance(job.spec, JobSpec)
    assert parse_job(dump_job(job), "run directory") == job
