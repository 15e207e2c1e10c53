"""A job's first weights in plain PyTorch: whole tables and torch's optimizers, for models trained beside the job."""

import torch
from torch.nn import functional as F  # noqa: N812  # torch's usual name

from bagpipe.config.document import Job
from bagpipe.models.base import build_model
from bagpipe.rows.initial import initial_rows
from bagpipe.tables import TableLayout


class Plain:
    """Whole tables and dense weights, which begin as the job's do, with the job's optimizers."""

    def __init__(self, job: Job, num_dense: int, num_labels: int) -> None:
        self.spec = job.spec
        tables = self.spec.embedding.tables
        first = build_model(self.spec.model, TableLayout.of(tables), num_dense, num_labels, self.spec.seed).state_dict()
        self.w = {name: weight.clone().requires_grad_() for name, weight in first.items()}
        self.tables = {}
        for number, t in enumerate(tables):
            scale = self.spec.embedding.init_scale or t.num_embeddings**-0.5
            rows = initial_rows(self.spec.seed, number, range(t.num_embeddings), t.embedding_dim, scale)
            self.tables[t.name] = torch.from_numpy(rows).requires_grad_()
        self.optimizers = [
            torch.optim.Adam(list(self.w.values()), lr=self.spec.optimizer.lr),
            torch.optim.SparseAdam(list(self.tables.values()), lr=self.spec.embedding.optimizer.lr),
        ]
        self.training = True
        """Whether units are dropped, where the model drops any."""

    def step(self, loss: torch.Tensor) -> float:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.item()

    def affine(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def normed(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])
