"""Which jobs an experiment consists of."""

import pytest

from bagpipe.errors import ConfigError
from bagpipe.experiment import suite


@pytest.mark.parametrize("model", suite.MODELS)
@pytest.mark.parametrize("scale", ["paper", "small"])
def test_every_models_job_is_one(model, scale):
    """Each of the six jobs, at each size, with the cache and without, passes the job document's own checks."""
    cached, uncached = suite.cases({model: suite.job_document(model, scale)}, suite.VARIANTS, (), "six")
    assert (cached.name, uncached.name) == (f"six-{model}-cached", f"six-{model}-uncached")
    assert uncached.job.spec.lookahead == 0
    assert cached.job.spec.lookahead in (50, 200)
    assert cached.job.spec.log_every == 1
    assert cached.job.metadata.labels[suite.LABEL] == "six"


def test_only_the_cache_differs():
    """The two runs that are compared are the same job but for their name and the lookahead."""
    document = suite.job_document("dlrm", "paper")
    cached, uncached = suite.cases({"dlrm": document}, suite.VARIANTS, (), "six")
    [again] = suite.cases({"dlrm": document}, ["cached"], ["lookahead=0"], "six")
    assert again.job.spec == uncached.job.spec
    assert cached.job.spec != uncached.job.spec


def test_the_papers_sizes():
    """DLRM at the paper's scale: 8 trainers share 16,384 examples, 15 million cached rows, lookahead 200."""
    [case] = suite.cases({"dlrm": suite.job_document("dlrm", "paper")}, ["cached"], (), "six")
    spec = case.job.spec
    assert (spec.batch_size, spec.lookahead, spec.cache_rows) == (16384, 200, 15_000_000)
    assert (spec.trainers.replicas, spec.servers.replicas, spec.embedding.dim) == (8, 1, 48)
    assert spec.model.bottom_mlp == (512, 256, 64)


def test_overrides_reach_every_job():
    """`--set` holds for all jobs and comes last."""
    documents = {m: suite.job_document(m, "small") for m in ("dlrm", "caser")}
    made = suite.cases(documents, suite.VARIANTS, ["steps=7", "lookahead=3"], "six")
    assert [(c.job.spec.steps, c.job.spec.lookahead) for c in made] == [(7, 3)] * 4


def test_one_warm_up_for_each_data_set():
    """Models that read the same data share a warm-up, which is short and reads text to its end."""
    documents = {m: suite.job_document(m, "paper") for m in ("dlrm", "wdl", "fgcnn")}
    planned = suite.cases(documents, suite.VARIANTS, (), "six")
    warm = suite.warm_ups(planned, 5)
    assert [w.job.spec.data.path for w in warm] == ["/data/kaggle_criteo_weekly.txt", "/data/parsed_train.txt"]
    assert {w.job.spec.steps for w in warm} == {5}
    assert {w.job.spec.data.test_fraction for w in warm} == {0.01}
    assert len({c.name for c in (*planned, *warm)}) == len(planned) + len(warm)


def test_mistakes_are_found_before_anything_runs():
    """An unknown model, an unknown variant and a setting that no job has are errors that name them."""
    with pytest.raises(ConfigError, match="'dlmr'"):
        suite.job_document("dlmr", "small")
    document = suite.job_document("dlrm", "small")
    with pytest.raises(ConfigError, match="'cashed'"):
        suite.cases({"dlrm": document}, ["cashed"], (), "six")
    with pytest.raises(ConfigError, match="lookahed"):
        suite.cases({"dlrm": document}, ["cached"], ["lookahed=3"], "six")
