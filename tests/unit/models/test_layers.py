"""Dropout whose masks depend on the place alone; losses by the job's choice."""

import pytest
import torch
from torch import nn

from bagpipe.config.model import ModelConfig
from bagpipe.errors import ConfigError
from bagpipe.models.layers import Dropout, step_setter
from bagpipe.models.loss import loss_of

UNITS = 300


def two_layers(p: float = 0.3) -> tuple[nn.Sequential, Dropout, Dropout]:
    first, second = Dropout(p), Dropout(p)
    return nn.Sequential(first, nn.ReLU(), second), first, second


def masks(seed: int, step: int, first_example: int, num_examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    model, first, second = two_layers()
    step_setter(model, seed)(step, first_example)
    ones = torch.ones(num_examples, UNITS)
    return first(ones), second(ones)


def test_a_mask_keeps_its_share_and_the_mean() -> None:
    """A share p of the units is zero, the others are divided by 1 - p; every unit and example is hit alike."""
    mask, _ = masks(1, 0, 0, 2000)
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert float((mask == 0).float().mean()) == pytest.approx(0.3, abs=0.003)
    assert (mask == 0).float().mean(0).sub(0.3).abs().max() < 0.06
    assert (mask == 0).float().mean(1).sub(0.3).abs().max() < 0.15
    neighbours = ((mask[:, 1:] == 0) & (mask[:, :-1] == 0)).float().mean()
    assert float(neighbours) == pytest.approx(0.09, abs=0.003)


def test_slices_of_a_batch_have_the_masks_of_the_whole() -> None:
    """Trainers drop what one trainer would have dropped."""
    whole, _ = masks(4, 9, 0, 10)
    parts = [masks(4, 9, first, count)[0] for first, count in ((0, 3), (3, 3), (6, 4))]
    assert torch.equal(torch.cat(parts), whole)


def test_masks_change_with_seed_step_and_layer() -> None:
    """Nothing is dropped twice for the same reason, and the same place always gives the same mask."""
    first, second = masks(4, 9, 0, 50)
    others = [second, masks(5, 9, 0, 50)[0], masks(4, 10, 0, 50)[0], masks(4, 9, 50, 50)[0]]
    for other in others:
        assert float(((first == 0) & (other == 0)).float().mean()) == pytest.approx(0.09, abs=0.01)
    assert torch.equal(first, masks(4, 9, 0, 50)[0])


def test_evaluation_drops_nothing() -> None:
    """Outside training, and with p = 0, inputs pass unchanged."""
    ones = torch.ones(4, 7, 2)
    assert Dropout(0.5).eval()(ones) is ones
    assert Dropout(0.0)(ones) is ones
    assert Dropout(0.5)(ones).shape == ones.shape


def test_the_job_chooses_the_loss() -> None:
    """Cross-entropy by default, squared error of the probability with `mse`, the model's own where it has one."""
    logits, labels = torch.tensor([[0.3], [-2.0]]), torch.tensor([[1.0], [0.0]])
    s = torch.sigmoid(logits)
    entropy = -(labels * s.log() + (1 - labels) * (1 - s).log()).mean()
    plain, squared = loss_of(nn.Identity(), ModelConfig()), loss_of(nn.Identity(), ModelConfig(loss="mse"))
    torch.testing.assert_close(plain(logits, labels), entropy)
    torch.testing.assert_close(squared(logits, labels), (s - labels).square().mean())
    assert float(plain(logits[:0], labels[:0])) == 0.0

    class Own(nn.Module):
        def loss(self, logits_BL: torch.Tensor, labels_BL: torch.Tensor) -> torch.Tensor:
            return (logits_BL - labels_BL).abs().mean()

    torch.testing.assert_close(loss_of(Own(), ModelConfig())(logits, labels), (logits - labels).abs().mean())
    with pytest.raises(ConfigError, match=r"model\.loss: mse: this model has a loss of its own"):
        loss_of(Own(), ModelConfig(loss="mse"))


def test_losses_of_values_counts_and_several_tasks_are_torchs() -> None:
    """Squared error of the output and Poisson's likelihood; factors of tasks multiply each label's terms, and examples
    count by their weights, so that slices weighted by the sums of theirs give the whole batch's loss.
    """
    torch.manual_seed(0)
    outputs, labels = torch.randn(8, 2, requires_grad=True), torch.randint(0, 5, (8, 2)).float()
    weights = torch.rand(8)
    terms = {"squared-error": (outputs - labels) ** 2, "poisson": outputs.exp() - labels * outputs}
    for name, expected_BL in terms.items():
        plain = loss_of(nn.Identity(), ModelConfig(loss=name))
        torch.testing.assert_close(plain(outputs, labels), expected_BL.mean())
        weighted = loss_of(nn.Identity(), ModelConfig(loss=name, task_weights=(1.0, 0.3)))
        expected = ((expected_BL * torch.tensor([1.0, 0.3])).mean(1) * weights).sum() / weights.sum()
        whole = weighted(outputs, labels, weights)
        torch.testing.assert_close(whole, expected)
        slices = [slice(0, 3), slice(3, 8)]
        parts = [weighted(outputs[s], labels[s], weights[s]) * weights[s].sum() / weights.sum() for s in slices]
        torch.testing.assert_close(sum(parts), expected)
        assert float(weighted(outputs, labels, torch.zeros(8)).detach()) == 0.0

    class Own(nn.Module):
        def loss(self, logits_BL: torch.Tensor, labels_BL: torch.Tensor) -> torch.Tensor:
            return (logits_BL - labels_BL).mean()

    with pytest.raises(ConfigError, match=r"model Own: the examples have weights .* its loss takes none"):
        loss_of(Own(), ModelConfig())(outputs, labels, weights)

    class WithFactor(nn.Module):
        def loss(self, logits_BL: torch.Tensor, labels_BL: torch.Tensor, factor: float = 0.5) -> torch.Tensor:
            return ((logits_BL - labels_BL) * factor).mean()

    class Weighted(nn.Module):
        def loss(
            self, logits_BL: torch.Tensor, labels_BL: torch.Tensor, weights_B: torch.Tensor | None = None
        ) -> torch.Tensor:
            assert weights_B is not None
            return ((logits_BL - labels_BL).mean(1) * weights_B).sum() / weights_B.sum()

    with pytest.raises(ConfigError, match="model WithFactor: the examples have weights"):
        loss_of(WithFactor(), ModelConfig())(outputs, labels, weights)
    expected = ((outputs - labels).mean(1) * weights).sum() / weights.sum()
    assert torch.equal(loss_of(Weighted(), ModelConfig())(outputs, labels, weights), expected)
    with pytest.raises(ConfigError, match="3 factors for 2 labels"):
        loss_of(nn.Identity(), ModelConfig(task_weights=(1.0, 1.0, 1.0)))(outputs, labels)


@pytest.mark.parametrize(
    ("logits", "value", "message"),
    [
        (None, torch.tensor(0.0), "forward: expected a tensor, found NoneType; change what it returns"),
        (torch.zeros(3, 1), "x", "loss: expected a tensor, found str"),
        (torch.zeros(3, 1), torch.zeros(3, 1), r"loss: expected one number, .* found a tensor of shape \[3, 1\]"),
        (torch.zeros(3, 1), torch.tensor(1j), "loss: expected floating-point numbers, found torch.complex64"),
        (torch.zeros(3, 1), torch.tensor(1), "loss: expected floating-point numbers, found torch.int64"),
    ],
    ids=["forward returns nothing", "loss is text", "loss of each example", "loss is complex", "loss is whole"],
)
def test_what_a_model_returns_is_checked_by_name(logits: object, value: object, message: str) -> None:
    """A model whose forward or loss returns the wrong thing is the user's mistake: one line names the method."""

    class Wrong(nn.Module):
        def loss(self, _logits: torch.Tensor, _labels: torch.Tensor) -> object:
            return value

    with pytest.raises(ConfigError, match=f"model Wrong: {message}"):
        loss_of(Wrong(), ModelConfig())(logits, torch.ones(3, 1))  # type: ignore[arg-type]  # that is the mistake
