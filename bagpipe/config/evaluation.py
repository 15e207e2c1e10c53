"""Settings of evaluation while training goes on. Part of the single source (`bagpipe/config/document.py`)."""

from typing import Annotated

from msgspec import Meta

from bagpipe.config import bounds
from bagpipe.config.pods import Section

FigureName = Annotated[str, Meta(min_length=1, max_length=200)]


class EarlyStopping(Section, kw_only=True):
    """Ends training when a figure of the validation part no longer improves. The step at which it ends has a checkpoint."""

    metric: Annotated[FigureName, Meta(description="The figure, for example auc or logLoss; label/auc where there are several labels. Which way is better follows from it.")]
    patience: Annotated[bounds.Evaluations, Meta(description="Evaluations in a row without improvement after which training ends.")] = 3
    min_delta: Annotated[bounds.RateOrZero, Meta(description="An improvement is a change for the better by more than this.")] = 0.0


class EvaluationConfig(Section):
    """Evaluation of the validation part (`data.validation`) while training goes on."""

    every: Annotated[bounds.StepsOrNever, Meta(description="Steps between evaluations of the validation part; it is also evaluated after the last step. 0: only then.")] = 0
    metrics: Annotated[
        tuple[FigureName, ...],
        Meta(
            description="Figures of every evaluation, of the test part too: auc, logLoss, normalizedEntropy, calibration, rmse, mae, bias, groupedAuc, recall@10, ndcg@10, map@10 (any k; by `data.columns.group`), "
            "or package.module:function (labels, scores, weights, groups) whose number is better when greater. Empty: auc, logLoss and calibration of probabilities, rmse, mae and bias of values."
        ),
    ] = ()
    early_stopping: Annotated[EarlyStopping | None, Meta(description="When training ends before its last step; none: never. Every evaluation then has a checkpoint.")] = None
