"""What `init_cache` makes of its arguments before it connects: numbers of numpy, descriptions, and mistakes."""

from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from bagpipe import api
from bagpipe.config.model import ModelConfig
from bagpipe.errors import ConfigError
from bagpipe.net.messages import InitCacheArguments

MODEL = torch.nn.Linear(2, 1)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[InitCacheArguments]:
    """What would be told to the oracle."""
    found: list[InitCacheArguments] = []
    monkeypatch.setattr(api, "BagCache", lambda job, arguments, **_: found.append(arguments))
    return found


def test_numbers_of_numpy_and_torch_are_numbers(sent: list[InitCacheArguments]) -> None:
    """Table sizes often come from numpy; what is told to the oracle can be written as a message."""
    api.init_cache(
        emb_size=np.int64(48),
        ln_emb=np.array([1460, 583]),  # type: ignore[arg-type]
        cache_size=torch.tensor(100),  # type: ignore[arg-type]
        emb_optim=torch.optim.Adagrad,
        emb_optim_params={"lr": np.float32(0.5)},
        model={"entrypoint": "own_model:Gated"},
    )
    (told,) = sent
    assert (told.table_sizes, told.embedding_dim, told.cache_rows) == ((1460, 583), 48, 100)
    assert told.optimizer is not None and told.optimizer.lr == 0.5
    assert told.model == ModelConfig(entrypoint="own_model:Gated")
    assert msgspec.json.encode(told)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"model": MODEL}, r"model: expected a dict .*, found a Linear; .* go to cache.attach\(model, optimizer\)"),
        ({"dense_optimizer": torch.optim.SGD(MODEL.parameters())}, "dense_optimizer: expected a dict .*, found a SGD"),
        ({"model": {"nme": "dlrm"}}, "model: .*`nme`"),
        ({"emb_size": "48"}, "emb_size: expected a whole number, found '48'"),
        ({"ln_emb": [10.5]}, "ln_emb: expected a whole number, found 10.5"),
        (
            {"emb_optim": "adagrad"},
            "emb_optim 'adagrad' has no sparse form here; use one of SGD, .*, classes of torch.optim",
        ),
        ({"emb_optim": torch.optim.SGD, "emb_optim_params": {"lr": "0.1"}}, r"emb_optim_params: .*\$.lr"),
    ],
)
def test_mistakes_are_named_before_anything_is_sent(
    arguments: dict[str, Any], expected: str, sent: list[InitCacheArguments]
) -> None:
    """Each is one line that names the argument; none is a TypeError of the message while the other roles wait."""
    with pytest.raises(ConfigError, match=f"init_cache: {expected}"):
        api.init_cache(**arguments)
    assert sent == []
