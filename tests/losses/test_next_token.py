"""Next-token cross-entropy in chunks against torch's own on all scores at once."""

import pytest
import torch
import torch.nn.functional as F

from chiasm.losses.next_token import next_token


@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_value_and_gradients_are_those_of_the_plain_formula(chunk: int) -> None:
    torch.manual_seed(0)
    h, weight = torch.randn(13, 8, requires_grad=True), torch.randn(31, 8, requires_grad=True)
    targets = torch.randint(31, (13,))
    expected = F.cross_entropy(h @ weight.T, targets)
    found = next_token(h, weight, targets, chunk)
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    for ours, theirs in zip(
        torch.autograd.grad(found * 3, (h, weight)), torch.autograd.grad(expected * 3, (h, weight)), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)
    with torch.no_grad():
        assert next_token(h, weight, targets, chunk).item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_frozen_head_gets_no_gradient_and_costs_none() -> None:
    h, weight = torch.randn(5, 8, requires_grad=True), torch.randn(31, 8)
    loss = next_token(h, weight, torch.tensor([1, 2, 3, 4, 5]))
    torch.autograd.backward(loss)
    assert h.grad is not None
    assert weight.grad is None


def test_all_scores_are_never_held_at_once() -> None:
    h, weight = torch.randn(512, 4, requires_grad=True), torch.randn(1000, 4)
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        next_token(h, weight, torch.zeros(512, dtype=torch.long), 16)
    assert max(sizes) <= h.numel()


def test_the_gradient_of_the_head_is_given_away_and_not_copied() -> None:
    h, weight = torch.randn(5, 8, requires_grad=True), torch.randn(31, 8, requires_grad=True)
    loss = next_token(h, weight, torch.arange(5))
    made = loss.grad_fn.grad_weight  # type: ignore[union-attr]  # our own function's
    place = made.data_ptr()
    del made
    torch.autograd.backward(loss)
    assert weight.grad is not None
    assert weight.grad.data_ptr() == place
    again = next_token(h, weight, torch.arange(5))
    torch.autograd.grad(again, weight, retain_graph=True)
    with pytest.raises(RuntimeError, match="goes backward once"):
        torch.autograd.grad(again, weight)
