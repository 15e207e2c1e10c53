"""The `BagpipeJob` document: every setting, its type, unit, bounds, default and meaning.

This file is the single source: `bagpipe.config.load` reads YAML against it, the settings reference in
`docs/` and the schema of the custom resource are generated from it. Names are camelCase in YAML
and snake_case here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from bagpipe.config import bounds
from bagpipe.config.columns import ColumnsConfig
from bagpipe.config.evaluation import EvaluationConfig, FigureName
from bagpipe.config.model import ModelConfig as ModelConfig  # noqa: PLC0414  # part of this document
from bagpipe.config.pods import CheckpointClaim, PodConfig, VolumeClaim
from bagpipe.config.pods import Section as _Section
from bagpipe.config.recipe import DenseOptimizer as DenseOptimizer  # noqa: PLC0414  # part of this document
from bagpipe.config.recipe import RowOptimizer as RowOptimizer  # noqa: PLC0414  # part of this document
from bagpipe.config.recipe import TableOverride, WarmStart
from bagpipe.tables import Pooling, Table, TableRows, Width

API_VERSION = "bagpipe.dev/v1alpha1"
KIND = "BagpipeJob"

Paths = str | tuple[str, ...]
PackFloats = Literal["auto", "always", "never"]


class SyntheticConfig(_Section):
    """The seeded click-log generator: learnable labels, Criteo's skew."""

    examples: Annotated[bounds.Examples, Meta(description="Examples to generate.")] = 200_000
    num_dense: Annotated[bounds.FeaturesOrNone, Meta(description="Dense features.")] = 13
    table_sizes: Annotated[
        tuple[TableRows, ...],
        Meta(description="Rows of each table; empty: 26 tables with the proportions of Criteo Kaggle, the large ones cut to 100,000."),
    ] = ()
    alpha: Annotated[bounds.Exponent, Meta(description="Zipf exponent of row popularity (1.05 resembles Criteo).")] = 1.05
    multi_hot: Annotated[bounds.Lookups, Meta(description="Most lookups for one feature of one example; 1: exactly one each.")] = 1


class DataConfig(_Section):
    """Where examples come from, and in which order. Batches are a pure function of these and `seed`."""

    path: Annotated[Paths, Meta(description="File, list, folder, glob, or object-store URL. Empty with format `synthetic`.")] = ()
    train: Annotated[
        Paths | bounds.Share, Meta(description="What is trained on: a share of `path`, from its beginning; or a path, which is another word for `path`. "
                                               "Empty: all that is neither for validation nor for tests.")
    ] = ()
    validation: Annotated[
        Paths | bounds.Share, Meta(description="What is evaluated while training goes on: a share of `path`, before the test part; or data of its own, all of it. Empty: none.")
    ] = ()
    test: Annotated[
        Paths | bounds.Share, Meta(description="What is evaluated at the end: a share of `path`, its last part; or data of its own, all of it. Empty: as `testFraction` says.")
    ] = ()
    format: Annotated[
        Literal["auto", "criteo-tsv", "criteo-json", "caser-json", "avazu-csv", "parquet", "synthetic", "csv", "tsv", "jsonl", "arrow"],
        Meta(description="Input format; auto: found from the first bytes (caser-json must be named). csv, tsv, jsonl, arrow (Feather too) and Parquet of your own need `columns`."),
    ] = "auto"
    test_fraction: Annotated[bounds.Fraction, Meta(description="Short for `test` as a share.")] = 0.0
    encoding: Annotated[
        Literal["auto", "hash", "vocabulary", "ids"],
        Meta(
            description="Raw categorical values to row numbers: hash into `hashSize` rows; vocabulary built from the training part; "
            "ids taken as they are. auto: ids where the format has them, vocabulary with `columns`, else hash."
        ),
    ] = "auto"
    hash_size: Annotated[TableRows, Meta(description="Rows of each hashed table.")] = 1_000_000
    min_count: Annotated[bounds.Occurrences, Meta(description="Vocabulary: values seen fewer times in the training part share one row per table.")] = 1
    numeric_bins: Annotated[
        Literal["none", "log-squared"],
        Meta(description="log-squared: each integer feature is also looked up as a categorical one, floor(ln(x)^2) for x > 2 (needs encoding vocabulary)."),
    ] = "none"
    shuffle: Annotated[
        Literal["never", "after-first", "always"],
        Meta(description="Which epochs are shuffled; the order is a pure function of `seed` and the epoch."),
    ] = "never"
    shuffle_window: Annotated[bounds.Window, Meta(description="Examples permuted together; the whole training part if that is smaller.")] = 1_000_000
    on_bad_line: Annotated[Literal["fail", "skip"], Meta(description="A malformed line ends the run (exit 65), or is skipped and counted.")] = "fail"
    drop_last: Annotated[bool, Meta(description="Drop an epoch's short last batch; what was dropped is reported.")] = False
    readers: Annotated[bounds.Threads, Meta(description="Threads that parse and encode ahead (compiled, outside Python's lock); 0: none. Never changes the batches.")] = 0
    synthetic: SyntheticConfig = SyntheticConfig()
    columns: Annotated[ColumnsConfig | None, Meta(description="What the columns of one's own data are; `bagpipe init PATH` writes them.")] = None
    split_by: Annotated[
        Literal["order", "time", "group"],
        Meta(description="Where shares are cut: in the order of the files; by `columns.time`, tests latest; or whole groups by a hash of `columns.group`."),
    ] = "order"
    oov: Annotated[
        Literal["shared"] | bounds.OovRows | dict[str, bounds.OovRows],
        Meta(description="Vocabulary: where values go that have no row of their own (not seen in the training part, or fewer than `minCount` times). shared: to one row of their table; "
                         "a number: to so many first rows of it, by hash; a mapping: a number for each table by name, `*` for all others, 1 for those that it leaves out."),
    ] = "shared"


class EmbeddingConfig(_Section):
    """The embedding tables and their optimizer."""

    dim: Annotated[Width, Meta(description="Width of tables found in the data.")] = 16
    tables: Annotated[tuple[Table, ...], Meta(description="The tables; empty: found in the data, one for each sparse feature.")] = ()
    pooling: Annotated[
        Mapping[str, Pooling],
        Meta(description="How the values of a feature become one vector, by feature, in tables found in the data: `{history: mean, item: none}`. Features that are not named: sum."),
    ] = {}
    optimizer: RowOptimizer = RowOptimizer()
    init_scale: Annotated[
        bounds.RateOrZero | None,
        Meta(description="First values of rows are uniform in [-scale, scale); 0: zeros; none: scale is 1 / sqrt(rows of the table)."),
    ] = None
    gradient_reduction: Annotated[
        Literal["mean", "sum"],
        Meta(description="Row gradients over trainers: mean, as DDP does for dense weights; sum, as the paper's code did."),
    ] = "mean"
    overrides: Annotated[tuple[TableOverride, ...], Meta(description="For some of the tables. All that match a table apply to it, later ones last.")] = ()


class CheckpointConfig(_Section):
    """When state is saved. A checkpoint exists once its manifest does."""

    every: Annotated[bounds.StepsOrNever, Meta(description="Steps between checkpoints; 0: only at the end.")] = 0
    keep: Annotated[bounds.Checkpoints, Meta(description="Complete checkpoints kept, the newest ones, and while an attempt runs the one that it began from.")] = 3
    best: Annotated[
        FigureName | None,
        Meta(description="A figure of the validation part, for example auc (label/auc where there are several labels): the checkpoint where it was best is kept apart from `keep`, and every evaluation of that part has a checkpoint. none: no such checkpoint."),
    ] = None
    strict: Annotated[bool, Meta(description="true: a damaged newest checkpoint ends a run that would go on from it; false: the run names it and goes on from the newest undamaged one.")] = False
    path: Annotated[str | None, Meta(description="Directory shared by trainers and servers; none: `checkpoints` in the run directory.")] = None
    volume_claim: Annotated[
        CheckpointClaim | None, Meta(description="Cluster only: a claim mounted at `path` in every pod (default path there: /checkpoints).")
    ] = None

    def folder(self, run_dir: Path) -> Path:
        """Where the checkpoints of a run in `run_dir` lie."""
        return Path(self.path) if self.path else run_dir / "checkpoints"


class RoleConfig(PodConfig):
    """Settings of the oracle's process; what is inherited from `PodConfig` is for clusters only."""

    port: Annotated[bounds.Port, Meta(description="TCP port to listen on in local runs; 0: any free one. On a cluster ports are fixed.")] = 0


class ServerConfig(RoleConfig):
    """The embedding servers."""

    replicas: Annotated[bounds.Servers, Meta(description="Number of shards, one process each.")] = 1
    storage: Annotated[
        Literal["file", "memory"],
        Meta(description="file: memory-mapped files, a killed process restarts on them; memory: anonymous memory, lost with the process."),
    ] = "file"
    volume_claim: Annotated[
        VolumeClaim | None, Meta(description="Cluster only: keep each shard's files on a claim of its own. none: on the node, lost with the pod.")
    ] = None


class TrainerConfig(RoleConfig):
    """The trainers."""

    replicas: Annotated[bounds.Trainers, Meta(description="Number of trainers (data-parallel ranks).")] = 1
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Meta(description="auto: cuda where there is one. On one machine rank r takes device r modulo the number of devices."),
    ] = "auto"
    threads: Annotated[bounds.Threads, Meta(description="torch threads of each trainer; sums inside matrix products depend on it. 0: cores / trainers.")] = 1
    gpu_profile: Annotated[str, Meta(description="Cluster only: which nodes and image trainers take.")] = "cpu"


class RunPolicy(_Section):
    """What happens when something dies, and afterwards."""

    backoff_limit: Annotated[bounds.Restarts, Meta(description="Restarts from a checkpoint before the run fails.")] = 3
    disruption_limit: Annotated[
        bounds.Restarts, Meta(description="Cluster only: restarts after preemption, drain, node loss or deletion, counted apart from failures.")
    ] = 100
    image_policy: Annotated[
        Literal["Pinned", "Latest"],
        Meta(description="Cluster only. Pinned: every attempt uses the images and the GPU profile that the operator had when the job began. Latest: each attempt uses those that the operator has when the attempt begins."),
    ] = "Pinned"
    restart_policy: Annotated[
        Literal["OnFailure", "Never", "ExitCode"],
        Meta(
            description="Cluster only. OnFailure: any exit code but 65 and 78 restarts the job from its checkpoint. "
            "ExitCode: so do only 75, 143 and codes above 127. Never: the first failure ends it; disruptions still restart it."
        ),
    ] = "OnFailure"
    active_deadline_seconds: Annotated[
        bounds.Time | None,
        Meta(description="Cluster only: longest active time. It counts from the first time all pods run, through restarts, not while suspended."),
    ] = None
    startup_deadline_seconds: Annotated[
        bounds.Time, Meta(description="Cluster only: longest wait until all pods run; the job then fails with the reason that held it up.")
    ] = 1800
    ttl_seconds_after_finished: Annotated[bounds.TimeOrNone | None, Meta(description="Cluster only: seconds a finished job is kept.")] = None
    clean_pod_policy: Annotated[
        Literal["All", "Running", "None"],
        Meta(description="Cluster only: what goes when the job ends. Running: servers and whatever still runs; finished pods stay for their logs."),
    ] = "Running"
    partial_start_seconds: Annotated[
        bounds.Time,
        Meta(description="Cluster only: how long some pods may wait on their nodes while others find none; then all are given back, and the job tries again later."),
    ] = 600
    gang: Annotated[
        Literal["Coscheduling", "Volcano", "None"],
        Meta(description="Cluster only: the scheduler that places all pods of an attempt or none, by a PodGroup. It must be among the operator's `gangSchedulers`."),
    ] = "None"
    node_lost_seconds: Annotated[
        bounds.TimeOrNone, Meta(description="Cluster only: how long pods wait for a node that is unreachable; then they are replaced elsewhere.")
    ] = 60
    suspend: Annotated[bool, Meta(description="Cluster only: hold the job, or stop it at a checkpoint and free its pods.")] = False
    queue_name: Annotated[Annotated[str, Meta(max_length=63)] | None, Meta(description="Cluster only: Kueue's LocalQueue; the job is held until it is admitted.")] = None
    workload_priority_class: Annotated[Annotated[str, Meta(max_length=253)] | None, Meta(description="Cluster only: Kueue's priority class.")] = None
    managed_by: Annotated[Annotated[str, Meta(max_length=63)] | None, Meta(description="Cluster only: the controller that runs this job; with any value but `bagpipe.dev/bagpipe-operator` the operator leaves the job alone.")
    ] = None
    operator_class: Annotated[
        Annotated[str, Meta(max_length=40, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")] | None,
        Meta(description="Cluster only: the operator that runs this job, where a cluster has several; none: the one without a class."),
    ] = None
    job_class: Annotated[
        Annotated[str, Meta(max_length=40, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")] | None,
        Meta(description="Cluster only: one of the presets that the operator's installation has by name (`jobs.classes`): images, a GPU profile, pod settings and limits; none: its `jobs.defaultClass`, if it has one."),
    ] = None
    inherit: Annotated[
        Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=317)], ...], Meta(max_length=50)],
        Meta(description="Cluster only: keys of the job's own labels and annotations that everything made for it bears too; `example.com/*`: all with this prefix."),
    ] = ()
    network_policy: Annotated[
        Literal["Ingress", "Isolated", "None"],
        Meta(description="Cluster only. Ingress: only the job's own pods reach its ports. Isolated: and they reach nothing but each other and DNS."),
    ] = "Ingress"


class TransportConfig(_Section):
    """Sockets between roles."""

    deadline_seconds: Annotated[bounds.Wait, Meta(description="Longest wait for any reply before the role gives up (exit 75).")] = 60.0
    step_seconds: Annotated[bounds.Wait, Meta(description="Longest time that a trainer may take for a step before the attempt ends (exit 75).")] = 300.0
    startup_seconds: Annotated[bounds.Wait, Meta(description="Longest wait for every role to register and for the data to be prepared.")] = 600.0
    dead_peer_seconds: Annotated[bounds.Wait, Meta(description="A connected peer that is silent this long is dead.")] = 10.0
    security: Annotated[Literal["auto", "plain", "curve"], Meta(description="curve: authenticated and encrypted with the job's keys, 1.7 CPU seconds a GB; auto: curve on a cluster and wherever `$BAGPIPE_CURVE_DIR` names keys.")] = "auto"
    pack_floats: Annotated[PackFloats, Meta(description="Send rows and gradients in a seventh fewer bytes, to the bit, for a nanosecond or two of CPU a float at both ends: pays on slow links. auto: steps are timed with and without it, and what is faster stays.")] = "auto"


class JobSpec(_Section, kw_only=True):
    """What to train, on what, how."""

    model: ModelConfig = ModelConfig()
    data: DataConfig
    embedding: EmbeddingConfig = EmbeddingConfig()
    optimizer: DenseOptimizer = DenseOptimizer()
    batch_size: Annotated[bounds.BatchSize, Meta(description="Examples of one step, all trainers together.")] = 2048
    init_from: Annotated[WarmStart | None, Meta(description="Begin with weights of another run; tables may be new, gone, grown or renamed, the data and the optimizer may be others.")] = None
    micro_batches: Annotated[bounds.MicroBatches, Meta(description="Parts into which each trainer cuts its slice of a batch, forward and backward one after the other, for models whose activations need the memory; their gradients add up to one update.")] = 1
    steps: Annotated[bounds.Steps | None, Meta(description="Steps to train; none: what `epochs` gives. Data is repeated as needed. With `epochs` too, training ends at whichever comes first, and says so where that is `epochs`.")] = None
    epochs: Annotated[bounds.Epochs | None, Meta(description="Passes over the training part; none: 1, or what `steps` needs.")] = None
    lookahead: Annotated[
        bounds.Batches | Literal["auto"],
        Meta(description="Future batches the oracle sees; 0: no cache (every row fetched and written back at every step). auto: by the first batches, the shortest that fetches hardly more than 200."),
    ] = "auto"
    cache_rows: Annotated[
        bounds.CachedRows | Literal["auto"],
        Meta(description="Rows each trainer may hold; never exceeded. auto: as many as a quarter of the free memory holds, of which only those that the lookahead needs are used."),
    ] = "auto"
    prefetch_depth: Annotated[bounds.StepsAhead, Meta(description="Steps ahead for which rows are requested.")] = 4
    seed: Annotated[bounds.Seed, Meta(description="Seed of rows, weights and order.")] = 0
    evaluate: Annotated[bool, Meta(description="Evaluate on the test part after the last step.")] = True
    evaluation: EvaluationConfig = EvaluationConfig()
    not_finite: Annotated[
        Literal["stop", "skip", "continue"],
        Meta(description="A loss or gradient that is NaN or infinite: stop ends the run at that step and names the first such tensor; skip passes over that step on all trainers, which costs several trainers a round trip in every step; continue trains on. None saves dense weights that are not finite."),
    ] = "stop"
    log_every: Annotated[bounds.Steps, Meta(description="Steps between progress records.")] = 10
    checkpoint: CheckpointConfig = CheckpointConfig()
    transport: TransportConfig = TransportConfig()
    all_roles: Annotated[PodConfig, Meta(description="Cluster only: pod settings of every role; a role's own come on top.")] = PodConfig()
    oracle: RoleConfig = RoleConfig()
    servers: ServerConfig = ServerConfig()
    trainers: TrainerConfig = TrainerConfig()
    run_policy: RunPolicy = RunPolicy()


class Metadata(_Section):
    """Kubernetes' object metadata. What a cluster adds to it (`uid`, `managedFields`, ...) is read past."""

    name: Annotated[str, Meta(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40, description="Name of the job.")] = "bagpipe"
    namespace: Annotated[Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)] | None, Meta(description="Cluster only: where the job is made; none: the current context's.")] = None
    labels: Annotated[dict[str, str], Meta(description="Cluster only: labels of the job.")] = {}
    annotations: Annotated[dict[str, str], Meta(description="Cluster only: annotations of the job.")] = {}


class Job(_Section, kw_only=True):
    """One BagpipeJob document."""

    api_version: Annotated[Literal["bagpipe.dev/v1alpha1"], Meta(description="Version of this document's form.")] = API_VERSION
    kind: Annotated[Literal["BagpipeJob"], Meta(description="Kind of this document.")] = KIND
    metadata: Metadata = Metadata()
    spec: JobSpec
