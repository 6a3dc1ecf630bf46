"""Adapters over 4-bit weights beside peft's, which stand on bitsandbytes' own layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from chiasm.adaptation.adapted import adapt
from chiasm.adaptation.adapters import lora
from chiasm.adaptation.quantised import SmallLinear
from chiasm.models import language
from chiasm.models.language import Language
from chiasm.nn.decoder import Packed, positions_of
from chiasm.nn.decoders import llama
from chiasm.weights import transformers as foreign
from tests.models.generative_models import small_language
from tests.weights.shaking import shaken

bitsandbytes = pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
peft = pytest.importorskip("peft", reason="pip install peft")
transformers = pytest.importorskip("transformers")

TARGETS = {"q": "q_proj", "v": "v_proj", "down": "down_proj"}
IDS = [5, 17, 3, 99, 250, 8, 41]


def in_bitsandbytes_layers(model: nn.Module) -> None:
    """Puts bitsandbytes' NF4 layer in the place of each linear layer but the head, as transformers' loading does."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and not name.endswith("lm_head"):
            small = bitsandbytes.nn.Linear4bit(
                layer.in_features,
                layer.out_features,
                layer.bias is not None,
                compute_dtype=torch.float32,
                compress_statistics=False,
                quant_type="nf4",
            )
            small.weight = bitsandbytes.nn.Params4bit(
                layer.weight.data, requires_grad=False, compress_statistics=False, quant_type="nf4", module=small
            )
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, small.to("cpu"))  # which is where it is quantised


def pair(folder: Path) -> tuple[Language, Any, dict[str, nn.Parameter], dict[str, Tensor]]:
    """Both models with the same weights in NF4 and the same adapters; the adapters' tensors of each, by our names."""
    config = language.Config(llama.Config(300, 64, 2, 4, 2, 128, 512))
    base = shaken(Language(config, small_language().processor))
    foreign.save(base, folder)
    names = foreign.linear_names(base)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    in_bitsandbytes_layers(theirs)
    theirs.is_loaded_in_4bit = True  # by which peft knows to use its own layer for these
    wrapped = peft.get_peft_model(theirs, peft.LoraConfig(r=4, lora_alpha=12, target_modules=list(TARGETS.values())))
    ours = adapt(base, {"language": lora.Config(rank=4, alpha=12, targets=tuple(TARGETS), quantise="nf4")})
    mine = {name: one for name, one in ours.named_parameters() if ".lora_" in name}
    all_of_theirs = dict(wrapped.named_parameters())
    known = {}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in mine.items():
            layer, _, rest = name.partition(".lora_")
            known[name] = all_of_theirs[f"base_model.model.{names[layer]}.lora_{rest}"]
            known[name].copy_(tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator)))
    return ours.eval(), wrapped.eval(), mine, known


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # theirs, of kernels for other devices
def test_outputs_and_gradients_are_those_of_peft_on_bitsandbytes_own_layer(tmp_path: Path) -> None:
    ours, theirs, mine, known = pair(tmp_path)
    assert len(mine) == 2 * len(TARGETS) * 2  # two tensors, in each of two blocks
    small, its = (
        ours.language.get_submodule("blocks.1.mlp.up"),
        theirs.get_submodule("model.model.layers.1.mlp.up_proj"),
    )
    assert isinstance(small, SmallLinear)
    assert isinstance(its, bitsandbytes.nn.Linear4bit)
    assert its.weight.dtype == torch.uint8
    assert torch.equal(small.weight, its.weight)  # bit for bit
    wrapped = theirs.get_submodule("model.model.layers.0.self_attn.q_proj")
    assert isinstance(wrapped, peft.tuners.lora.bnb.Linear4bit)
    ids = torch.tensor(IDS)
    found, expected = (table(ids).detach().requires_grad_() for table in embeddings(ours, theirs))
    h_TD = ours.language(found, positions_of([len(IDS)]), Packed([len(IDS)]))
    logits_TV = ours.language.logits(h_TD)
    their_logits_TV = theirs(inputs_embeds=expected[None]).logits[0]
    torch.testing.assert_close(logits_TV, their_logits_TV, atol=1e-4, rtol=1e-4)
    for made in (logits_TV, their_logits_TV):
        nn.functional.cross_entropy(made[:-1], ids[1:]).backward()
    assert found.grad is not None  # through every layer of 4 bits
    torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-3)
    for name, one in mine.items():
        assert one.grad is not None
        assert float(one.grad.abs().max()) > 1e-5, name
        torch.testing.assert_close(one.grad, known[name].grad, atol=1e-6, rtol=1e-3)
    assert not [name for name, one in ours.named_parameters() if one.grad is not None and name not in mine]


def embeddings(ours: Language, theirs: Any) -> tuple[nn.Module, nn.Module]:
    return ours.language.embed, theirs.get_input_embeddings()
