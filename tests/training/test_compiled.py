"""Whole models under `torch.compile`: losses and gradients are those of the model as it is.

They are traced and differentiated as ever, and run by torch's own kernels ("aot_eager"): to have them written anew
takes minutes, and would try torch's compiler rather than our models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from chiasm.data.batch import Batch
from chiasm.data.sample import Sample, Text
from chiasm.models import flamingo, llava
from chiasm.models.model import Model
from chiasm.nn import cross
from chiasm.nn.connectors import mlp, resampler
from chiasm.nn.decoders import llama
from chiasm.nn.image_towers import vit
from tests.models.generative_models import noise, small_flamingo, small_llava
from tests.worlds import tiny_clip


def clips() -> tuple[Model, Batch]:
    model = tiny_clip()
    samples = [Sample(str(at), (noise(at, 16), Text(text))) for at, text in enumerate(("a red one", "blue", "a dog"))]
    return model, model.processor(samples)


def asked(model: Any) -> tuple[Model, Batch]:
    question, answer = Text("What colour is the ball?", role="user"), Text("red", role="assistant", target=True)
    side = model.config.vision.image_size
    return model, model.processor([Sample(str(at), (noise(at, side), question, answer)) for at in range(2)])


def llavas() -> tuple[Model, Batch]:
    whole = small_llava()
    config = llava.Config(vit.Config(64, 16, 32, 1, 2, 48), llama.Config(310, 32, 1, 2, 1, 48, 512), mlp.Config(), -1)
    return asked(llava.LLaVA(config, whole.processor).eval())


def flamingos() -> tuple[Model, Batch]:
    parts = vit.Config(32, 16, 32, 1, 2, 48), llama.Config(300, 32, 1, 2, 1, 48, 512), cross.Config(2, 48, every=1)
    return asked(small_flamingo(config=flamingo.Config(*parts, resampler.Config(3, 1, 2, 8))))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler itself calls what is deprecated
@pytest.mark.parametrize("made", [clips, llavas, flamingos], ids=["clip", "llava", "flamingo"])
def test_compiled_models_have_the_losses_and_gradients_of_the_eager_ones(made: Any) -> None:
    model, batch = made()
    learns = {name: one for name, one in model.named_parameters() if one.requires_grad}
    torch._dynamo.reset()
    counters.clear()
    found: list[tuple[dict[str, Tensor], dict[str, Tensor | None]]] = []
    for losses_of in (model.losses, torch.compile(model.losses, backend="aot_eager")):
        losses = {name: one for name, one in losses_of(batch).items() if not name.startswith("_")}
        total = torch.stack(list(losses.values())).sum()
        grads = torch.autograd.grad(total, list(learns.values()), allow_unused=True)
        found.append((losses, dict(zip(learns, grads, strict=True))))
    assert counters["stats"]["calls_captured"] > 50  # a model's worth of operations, not a scrap of one
    (plain, plain_grads), (compiled, compiled_grads) = found
    torch.testing.assert_close(compiled, plain, atol=1e-6, rtol=1e-5)
    for name, one in plain_grads.items():
        other = compiled_grads[name]
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(other, one, atol=1e-5 * float(one.abs().max()), rtol=1e-3)
