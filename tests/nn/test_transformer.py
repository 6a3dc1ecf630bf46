"""What the towers leave out of their work changes nothing of what they compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from chiasm.data.batch import Images, PixelImages, Tokens
from chiasm.errors import RecipeError
from chiasm.nn.attention import Block, QuickGELU
from chiasm.nn.bert import Layer
from chiasm.nn.image_towers import vit
from chiasm.nn.image_towers.vit import PatchEmbed
from chiasm.nn.recompute import recompute_layers
from chiasm.nn.text_towers import transformer

VISION = vit.Config(32, 8, width=32, layers=3, heads=4, mlp_width=64)
TEXT = transformer.Config(50, 12, width=32, layers=3, heads=4, mlp_width=64)


def _vit(**changes: object) -> vit.ViT:
    torch.manual_seed(0)
    return replace(VISION, **changes).build()  # type: ignore[arg-type]  # fields of any type


def _images(count: int = 3) -> Images:
    return PixelImages(torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(count))


def _texts() -> Tokens:
    lengths_B = torch.tensor([5, 12, 2, 5, 9, 1])
    ids_BT = torch.randint(50, (6, 12), generator=torch.Generator().manual_seed(1))
    return Tokens(ids_BT, lengths_B, torch.ones_like(ids_BT, dtype=torch.bool))


def _gradients(module: nn.Module, output: Callable[[], Tensor]) -> list[Tensor]:
    made = output()
    weight = torch.linspace(-1, 1, 32, dtype=made.dtype)
    return [*torch.autograd.grad((made * weight).sum(), list(module.parameters()))]


def test_quick_gelu_is_its_formula() -> None:
    x = torch.linspace(-30, 30, 601, dtype=torch.float64, requires_grad=True)
    formula = x * torch.sigmoid(1.702 * x)
    torch.testing.assert_close(QuickGELU()(x), formula)
    assert torch.autograd.gradcheck(QuickGELU(), x[::10].detach().requires_grad_())


@pytest.mark.parametrize(("size", "patch"), [(32, 8), (30, 7)])
def test_patches_as_a_product_are_the_convolution(size: int, patch: int) -> None:
    """A rest that fills no patch is not seen."""
    embed = PatchEmbed(3, 16, patch, stride=patch)
    pixels = torch.randn(2, 3, size, size, requires_grad=True)
    ours, theirs = embed(pixels), F.conv2d(pixels, embed.weight, embed.bias, stride=patch)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    found, wanted = (torch.autograd.grad(one.square().sum(), (pixels, embed.weight)) for one in (ours, theirs))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_class_token_alone_is_what_all_tokens_would_give(layers: int) -> None:
    tower, images = _vit(layers=layers), _images()
    torch.testing.assert_close(tower(images), tower.tokens(images)[:, 0], rtol=1e-5, atol=1e-5)
    found, wanted = (_gradients(tower, one) for one in (lambda: tower(images), lambda: tower.tokens(images)[:, 0]))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("path", ["packed", "padded"])
def test_texts_without_their_padding_are_what_they_are_with_it(layers: int, path: str) -> None:
    tower, texts = replace(TEXT, layers=layers).build().double(), _texts()  # in float32 some draws round further apart
    way = tower._packed_ends if path == "packed" else tower._ends  # the one for CPUs, the one for GPUs
    rows, ends = torch.arange(len(texts)), texts.lengths_B - 1
    torch.testing.assert_close(tower.norm(way(texts)), tower.tokens(texts)[rows, ends], rtol=1e-5, atol=1e-5)
    found = _gradients(tower, lambda: tower.norm(way(texts)))
    wanted = _gradients(tower, lambda: tower.tokens(texts)[rows, ends])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_no_texts_give_no_features() -> None:
    ids_BT = torch.zeros(0, 4, dtype=torch.long)
    assert TEXT.build()(Tokens(ids_BT, ids_BT.sum(1), ids_BT.bool())).shape == (0, 32)


def _flops(act: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        act()
    return int(counter.get_total_flops())


def test_padding_and_unread_places_cost_nothing() -> None:
    texts = _texts()
    short, wide = TEXT.build(), replace(TEXT, context=40).build()
    padded = Tokens(F.pad(texts.ids_BT, (0, 28)), texts.lengths_B, F.pad(texts.target_BT, (0, 28)))
    assert _flops(lambda: wide(padded)) == _flops(lambda: short(texts))
    tower = _vit()
    assert _flops(lambda: tower(_images())) < 0.85 * _flops(lambda: tower.tokens(_images()))  # of 3 layers


class TestKeep:
    """FLIP's dropping of patches."""

    def test_training_sees_some_and_evaluation_all(self) -> None:
        tower, whole, images = _vit(keep=0.5), _vit(), _images()
        seen: list[tuple[int, ...]] = []
        tower.blocks[0].register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
        torch.testing.assert_close(tower.eval()(images), whole.eval()(images))
        assert tower.train()(images).shape == (3, 32)
        tower.tokens(images)
        assert seen == [(3, 17, 32), (3, 9, 32), (3, 17, 32)]  # 16 patches, half of them, and the class token

    def test_each_picture_has_patches_of_its_own_drawn_from_the_random_numbers(self) -> None:
        tower = _vit(keep=0.5)
        torch.manual_seed(7)
        first, again = tower._drawn(40).hidden_MP, tower._drawn(40).hidden_MP
        torch.manual_seed(7)
        assert torch.equal(tower._drawn(40).hidden_MP, first)
        drawn = [frozenset((~hidden_P).nonzero()[:, 0].tolist()) for hidden_P in (*first, *again)]
        assert all(len(kept) == 8 for kept in drawn)  # none twice
        assert len(set(drawn)) > 70
        assert frozenset.union(*drawn) == frozenset(range(16))

    def test_a_patch_keeps_its_place(self) -> None:
        """Positions are added before: each row that is kept is a row of the whole."""
        tower, images = _vit(keep=0.25), _images(1)
        whole, mask = tower._embedded(images), tower._drawn(1)
        kept = tower._embedded(images, mask)
        assert torch.equal(kept[0], whole[0][[0, *((~mask.hidden_MP[0]).nonzero()[:, 0] + 1).tolist()]])

    @pytest.mark.parametrize("pool", ["class", "map", "mean"])
    def test_work_falls_with_the_share(self, pool: str) -> None:
        images = _images()
        half, whole = _vit(keep=0.5, pool=pool), _vit(pool=pool)
        assert _flops(lambda: half(images)) < 0.65 * _flops(lambda: whole(images))

    @pytest.mark.parametrize("keep", [0.0, 1.1])
    def test_no_share_is_refused(self, keep: float) -> None:
        with pytest.raises(RecipeError, match="share of the patches"):
            replace(VISION, keep=keep)


class TestRecompute:
    """Activation checkpointing."""

    @staticmethod
    def _kept(act: Callable[[], Tensor]) -> tuple[Tensor, int]:
        """What is computed, and the bytes that its graph keeps beside parameters."""
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter):
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            found = act()
        return found, sum(sizes.values())

    @pytest.mark.parametrize("tower", ["vision", "text"])
    def test_same_gradients_from_less_memory(self, tower: str) -> None:
        torch.manual_seed(0)
        module, given = (VISION.build(), _images()) if tower == "vision" else (TEXT.build(), _texts())
        plain, kept = self._kept(lambda: module(given))
        wanted = _gradients(module, lambda: module(given))
        assert recompute_layers(module) == 3
        again, less = self._kept(lambda: module(given))
        torch.testing.assert_close(again, plain)
        torch.testing.assert_close(_gradients(module, lambda: module(given)), wanted)
        assert less < kept / 2

    def test_random_numbers_repeat(self) -> None:
        block = Block(32, 4, 64, "gelu")
        block.mlp.act = nn.Sequential(nn.GELU(), nn.Dropout(0.5))
        x = torch.randn(2, 5, 32)
        torch.manual_seed(1)
        wanted = _gradients(block, lambda: block(x))
        block.recompute = True
        torch.manual_seed(1)
        torch.testing.assert_close(_gradients(block, lambda: block(x)), wanted)

    def test_nothing_is_kept_where_no_gradient_is_wanted(self) -> None:
        block = Block(32, 4, 64, "gelu")
        block.recompute = True
        with torch.no_grad():
            assert not block(torch.randn(1, 4, 32)).requires_grad

    def test_layers_of_bert_too(self) -> None:
        from chiasm.nn import bert

        module = bert.Config(vocabulary=20, width=32, layers=2, heads=2, mlp_width=64, context=8).build()
        assert recompute_layers(module) == 2
        ids_BT = torch.randint(20, (2, 8))
        wanted = _gradients(module, lambda: module(ids_BT))
        for layer in module.layers:
            assert isinstance(layer, Layer)
            layer.recompute = False
        torch.testing.assert_close(_gradients(module, lambda: module(ids_BT)), wanted)
