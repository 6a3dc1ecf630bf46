"""Losses by blocks and over several processes equal the plain formula, gradients included."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn

from chiasm.losses.contrastive import info_nce, plain_info_nce
from chiasm.losses.sigmoid import pairwise_sigmoid, plain_pairwise_sigmoid
from tests import peers
from tests.losses.given import gradients, pairs

Loss = Callable[..., Tensor]
# Each loss by blocks, its formula, and scalars to try it with; 100 is where logits leave the range of exp.
CASES: list[tuple[Loss, Loss, tuple[float, ...]]] = [
    *((info_nce, plain_info_nce, (scale,)) for scale in (1.0, 1 / 0.07, 100.0)),
    *((pairwise_sigmoid, plain_pairwise_sigmoid, pair) for pair in ((10.0, -10.0), (1.0, 0.0), (117.0, -12.9))),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__}-{case[2]}")
@pytest.mark.parametrize(("count", "chunk"), [(37, 8), (64, 16), (33, 32), (2, 1)])
def test_blocks_give_the_formula(case: tuple[Loss, Loss, tuple[float, ...]], count: int, chunk: int) -> None:
    loss, plain, scalars = case
    given = (*pairs(count), *map(torch.tensor, scalars))
    found = gradients(functools.partial(loss, chunk=chunk), *given)
    torch.testing.assert_close(found, gradients(plain, *given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES[1:3] + CASES[4:], ids=lambda case: f"{case[0].__name__}-{case[2]}")
def test_gradients_are_those_of_finite_differences(case: tuple[Loss, Loss, tuple[float, ...]]) -> None:
    loss, _, scalars = case
    given = [one.double().requires_grad_() for one in (*pairs(7, width=4), *map(torch.tensor, scalars))]
    assert torch.autograd.gradcheck(functools.partial(loss, chunk=3), given)


def test_a_pair_hidden_among_far_larger_logits_keeps_its_gradient() -> None:
    """One picture matches its text at 100, another at -100 only: e to that power is no float32 any more."""
    image_ND, _ = pairs(6, width=4)
    text_ND = image_ND.clone()
    text_ND[3] = -image_ND[3]
    given = (image_ND, text_ND, torch.tensor(100.0))
    found = gradients(functools.partial(info_nce, chunk=2), *given)
    torch.testing.assert_close(found, gradients(plain_info_nce, *given), rtol=1e-5, atol=1e-4)


def test_what_needs_no_gradient_gets_none() -> None:
    """A frozen text tower: the pictures learn as before."""
    image_ND, text_ND = pairs(20)
    cases: list[tuple[Loss, tuple[float, ...]]] = [(info_nce, (10.0,)), (pairwise_sigmoid, (10.0, -10.0))]
    for loss, scalars in cases:
        given = tuple(map(torch.tensor, scalars))
        found = gradients(lambda image, loss=loss, given=given: loss(image, text_ND, *given, chunk=8), image_ND)
        both = gradients(functools.partial(loss, chunk=8), image_ND, text_ND, *given)
        torch.testing.assert_close(found, both[:2])
        with torch.no_grad():
            torch.testing.assert_close(loss(image_ND, text_ND, *given, chunk=8), both[0])


def test_autocast_costs_no_precision() -> None:
    image_ND, text_ND = pairs(16)
    scale = torch.tensor(100.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = info_nce(image_ND, text_ND, scale), info_nce(image_ND, text_ND, scale, chunk=4)
    assert found[0].dtype is torch.float32
    torch.testing.assert_close(found, (plain_info_nce(image_ND, text_ND, scale),) * 2, rtol=1e-5, atol=1e-5)


def test_what_is_not_finite_is_not_hidden() -> None:
    image_ND, text_ND = pairs(9)
    image_ND[4, 0] = torch.nan
    assert info_nce(image_ND, text_ND, torch.tensor(1.0), chunk=4).isnan()
    assert pairwise_sigmoid(image_ND, text_ND, torch.tensor(1.0), torch.tensor(0.0), chunk=4).isnan()


@pytest.mark.parametrize("launch", [((4, 4), (5, 3)), ((6, 0, 5),)], ids=str)  # one start of processes each
def test_processes_give_what_one_gives(launch: tuple[tuple[int, ...], ...]) -> None:
    """Each process holds as many pairs as its share says."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    spawn(_process, (launch, port), nprocs=len(launch[0]))


def _process(rank: int, launch: tuple[tuple[int, ...], ...], port: int) -> None:
    """One process's part of the test above; what fails here fails there."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=len(launch[0]))
    for shares in launch:
        _compare(rank, shares)
    dist.destroy_process_group()


def _compare(rank: int, shares: tuple[int, ...]) -> None:
    mine = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    for loss, plain, scalars in CASES:
        given = (*pairs(sum(shares)), *map(torch.tensor, scalars))
        for chunk in (2, 2048):  # in float64, as rounding is no matter of the ring
            exact = tuple(one.double() for one in given)
            _compare_rows(functools.partial(loss, chunk=chunk), plain, exact, mine)
        _compare_parameters(loss, plain, given, mine)
    if len(set(shares)) == 1:
        _compare_open_clip(rank, len(shares), mine)


def _compare_rows(loss: Loss, plain: Loss, given: tuple[Tensor, ...], mine: slice) -> None:
    """The global loss, and its gradient by each own row, times the number of processes; scalars after averaging."""
    value, image, text, *scalars = gradients(loss, given[0][mine], given[1][mine], *given[2:])
    wanted = gradients(plain, *given)
    size = dist.get_world_size()
    for scalar in scalars:
        dist.all_reduce(scalar)
    found = [value, image / size, text / size, *(scalar / size for scalar in scalars)]
    wanted = [wanted[0], wanted[1][mine], wanted[2][mine], *wanted[3:]]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


class _Towers(nn.Module):
    def __init__(self, scalars: tuple[Tensor, ...]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.image, self.text = nn.Linear(16, 8), nn.Linear(16, 8)
        self.scalars = nn.ParameterList(scalar.clone() for scalar in scalars)

    def forward(self, loss: Loss, image_ND: Tensor, text_ND: Tensor) -> Tensor:
        ends = F.normalize(self.image(image_ND), dim=-1), F.normalize(self.text(text_ND), dim=-1)
        return loss(*ends, *self.scalars)


def _compare_parameters(loss: Loss, plain: Loss, given: tuple[Tensor, ...], mine: slice) -> None:
    """What DDP averages is the gradient of the global loss."""
    alone = _Towers(given[2:])
    torch.autograd.backward(alone(plain, *given[:2]))
    share = (mine.stop - mine.start) * dist.get_world_size() / len(given[0])
    for weight in (1.0, share):  # as it is, or by the rows
        together = nn.parallel.DistributedDataParallel(_Towers(given[2:]))
        torch.autograd.backward(together(loss, given[0][mine], given[1][mine]) * weight)
        _compare_gradients(alone, together.module)


def _compare_gradients(alone: nn.Module, together: nn.Module) -> None:
    for wanted, found in zip(alone.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-5)


def _compare_open_clip(rank: int, size: int, mine: slice) -> None:
    """open_clip's own losses over several processes: theirs summed over processes is ours, rows and scalars."""
    open_clip = peers.open_clip()
    image_ND, text_ND = pairs(size * (mine.stop - mine.start))
    ours = gradients(info_nce, image_ND[mine], text_ND[mine], torch.tensor(20.0))
    theirs = open_clip.ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=size)
    peer = gradients(theirs, image_ND[mine], text_ND[mine], torch.tensor(20.0))
    for value in (peer[0], peer[3], ours[3]):  # theirs is the mean over own rows only
        dist.all_reduce(value)
    found = [ours[0], ours[1], ours[2], ours[3] / size]
    torch.testing.assert_close(found, [peer[0] / size, peer[1], peer[2], peer[3] / size], rtol=1e-5, atol=1e-5)
    given = torch.tensor(10.0), torch.tensor(-10.0)
    ours = gradients(pairwise_sigmoid, image_ND[mine], text_ND[mine], *given)
    theirs = open_clip.loss.SigLipLoss(rank=rank, world_size=size, dist_impl="gather")
    peer = gradients(theirs, image_ND[mine], text_ND[mine], *given)
    dist.all_reduce(peer[0])
    torch.testing.assert_close([ours[0], *ours[1:3]], [peer[0] / size, *peer[1:3]], rtol=1e-5, atol=1e-5)
