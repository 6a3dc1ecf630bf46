"""Adapters: learned, saved as peft saves them, merged, and read by peft on transformers' own classes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

import chiasm
from chiasm.adaptation import adapted, peft_adapter
from chiasm.adaptation.adapted import adapt, merged
from chiasm.adaptation.adapter import AdapterConfig, Quantised, linear_layers
from chiasm.adaptation.adapters import lora, other, vera
from chiasm.adaptation.quantised import SmallLinear, quantise
from chiasm.adaptation.tensors import put, tensors_of
from chiasm.config import parse
from chiasm.data.batch import Batch
from chiasm.data.reader import Reader
from chiasm.data.sample import Sample, Text
from chiasm.errors import CheckpointError, MissingExtra, RecipeError
from chiasm.models import clip
from chiasm.models import folder as model_folder
from chiasm.models.generative import GenerativeModel
from chiasm.models.llava import LLaVA
from chiasm.models.model import Model
from chiasm.nn.decoder import Packed
from chiasm.nn.image_towers import efficientnet_lite
from chiasm.nn.recompute import recompute_layers
from chiasm.weights import adapters as peft_folders
from chiasm.weights import transformers as foreign
from tests.models.generative_models import noise, small_language, small_llava
from tests.weights.test_transformers_llava import peer
from tests.worlds import Patches, tiny_clip, tiny_processor

peft = pytest.importorskip("peft", reason="pip install peft")
transformers = pytest.importorskip("transformers")

KINDS: dict[str, AdapterConfig] = {
    "lora": lora.Config(rank=4, targets=("q", "v")),
    "lora, all layers": lora.Config(rank=4, rank_stabilised=True),
    "dora": lora.Config(rank=4, targets=("attention.q", "down"), dora=True),
    "vera": vera.Config(rank=16, targets=("q", "out")),  # all of one shape
    "loha": other.Config(kind="LoHa", targets=("q", "up"), settings={"r": 4}),
}


M = TypeVar("M", bound=Model)


def chat(at: int, imaged: bool = True) -> Sample:
    colour = ("red", "blue", "green")[at % 3]
    image = (noise(at),) if imaged else ()
    question, answer = Text("What colour is the ball?", role="user"), Text(colour, role="assistant", target=True)
    return Sample(str(at), (*image, question, answer))


def batch_of(model: GenerativeModel, imaged: bool = True) -> Batch:
    return model.processor([chat(at, imaged) for at in range(3)])


def logits(model: Any, batch: Batch) -> Tensor:
    """At every place of the stream."""
    with torch.no_grad():
        prompt = model.embedded(batch)
        return model.language.logits(model.language(prompt.x_TD, prompt.positions, Packed(prompt.lengths)))


def moved(model: M, seed: int = 5) -> M:
    """With every learned tensor another than at first, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                one.add_(0.05 * torch.randn(one.shape, generator=generator))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_merged_equals_unmerged_and_begins_at_the_base(kind: str) -> None:
    base = small_llava()
    batch = batch_of(base)
    before = logits(base, batch)
    model = adapt(small_llava(), {"language": KINDS[kind]})
    torch.testing.assert_close(logits(model, batch), before, atol=1e-5, rtol=0)
    for part in (model.vision, model.connector):
        part.requires_grad_(False)
    moved(model)
    after = logits(model, batch)
    assert float((after - before).abs().max()) > 1e-2
    whole = merged(model)
    assert whole.state_dict().keys() == base.state_dict().keys()
    assert type(whole) is type(base)
    torch.testing.assert_close(logits(whole, batch), after, atol=1e-5 * float(after.abs().max()), rtol=0)
    torch.testing.assert_close(logits(model, batch), after, atol=0, rtol=0)  # it was left as it is


def test_the_same_change_as_pefts_on_the_class_of_transformers(tmp_path: Path) -> None:
    ours = small_language()
    foreign.save(ours, tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj"], use_rslora=True)
    wrapped = peft.get_peft_model(theirs, config).eval()
    model = adapt(ours, {"language": lora.Config(rank=4, alpha=12, targets=("q", "v"), rank_stabilised=True)})
    names = foreign.linear_names(small_language())
    state, known = model.state_dict(), dict(wrapped.named_parameters())
    copied = 0
    with torch.no_grad():
        for name, tensor in state.items():
            if ".lora_" in name:
                layer, _, rest = name.partition(".lora_")
                tensor.normal_(std=0.1)
                known[f"base_model.model.{names[layer]}.lora_{rest}"].copy_(tensor)
                copied += 1
    assert copied == 2 * 2 * len(model.language.blocks)
    batch = batch_of(model, imaged=False)
    assert batch.stream is not None
    ids = batch.stream.ids_T[: int(batch.stream.lengths_B[0])]
    with torch.no_grad():
        expected = wrapped(ids[None]).logits[0]
    torch.testing.assert_close(logits(model, batch)[: len(ids)], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_exported_adapter_is_read_by_peft_and_read_back(kind: str, tmp_path: Path) -> None:
    base = small_language()
    foreign.save(base, tmp_path / "base")
    model = adapt(small_language(), {"language": KINDS[kind]})
    moved(model)
    peft_folders.save_for_transformers(model, tmp_path / "adapter", str(tmp_path / "base"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    wrapped = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "adapter")).eval()
    batch = batch_of(model, imaged=False)
    assert batch.stream is not None
    ids = batch.stream.ids_T[: int(batch.stream.lengths_B[0])]
    with torch.no_grad():
        expected = wrapped(ids[None]).logits[0]
    found = logits(model, batch)
    torch.testing.assert_close(found[: len(ids)], expected, atol=1e-4, rtol=1e-4)
    assert float((found - logits(base, batch)).abs().max()) > 1e-2
    again = chiasm.load(tmp_path / "base", adapter=tmp_path / "adapter")  # under transformers' names
    torch.testing.assert_close(logits(again, batch), found, atol=1e-5, rtol=1e-5)
    file = tmp_path / "adapter" / peft_adapter.CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), "rank_pattern": {"q_proj": 8}}))
    with pytest.raises(CheckpointError, match="has ranks of single layers"):
        chiasm.load(tmp_path / "base", adapter=tmp_path / "adapter")


def test_an_exported_adapter_of_llava_is_read_by_peft(tmp_path: Path) -> None:
    """Tower and decoder both; as two adapters, of which the second is put on to the first merged."""
    theirs = peer(tmp_path / "base")
    model = chiasm.load(tmp_path / "base")
    assert isinstance(model, LLaVA)
    moved(adapt(model, {"language": KINDS["lora"], "vision": lora.Config(rank=2, targets=("q", "up"))}))
    for part in (model.connector, model.vision.norm):
        part.requires_grad_(False)
    model.load_state_dict(chiasm.load(tmp_path / "base").state_dict(), strict=False)
    peft_folders.save_for_transformers(model, tmp_path / "adapter", str(tmp_path / "base"))
    for name in ("vision", "language"):
        theirs = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "adapter" / name)).merge_and_unload()
    sample = Sample("a", (noise(0, 40), Text("What is it?", role="user"), Text("A dog", role="assistant", target=True)))
    batch = model.processor([sample])
    assert batch.stream is not None
    assert batch.images is not None
    with torch.no_grad():
        expected = theirs(input_ids=batch.stream.ids_T[None], pixel_values=batch.images.pixels).logits[0]
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-3, rtol=1e-4)


def saved(model: Model, base: Path, folder: Path) -> Path:
    adaptation = model.adaptation
    assert isinstance(adaptation, adapted.Adaptation)
    adaptation.base = str(base)
    model_folder.save(model, folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_holds_what_learned_and_finds_its_base(kind: str, tmp_path: Path) -> None:
    model_folder.save(small_llava(), tmp_path / "run/base")
    model = adapt(small_llava(), {"language": KINDS[kind], "vision": KINDS["lora"]})
    model.vision.norm.requires_grad_(True)
    moved(model)
    batch = batch_of(model)
    expected = logits(model, batch)
    folder = saved(model, tmp_path / "run/base", tmp_path / "run/checkpoint")
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    assert size < 0.45 * (tmp_path / "run/base/model.safetensors").stat().st_size
    again = chiasm.load(folder)
    torch.testing.assert_close(logits(again, batch), expected, atol=0, rtol=0)
    on_base = chiasm.load(tmp_path / "run/base", adapter=folder)
    torch.testing.assert_close(logits(on_base, batch), expected, atol=0, rtol=0)
    saved(again, tmp_path / "run/base", tmp_path / "run/again")  # what is read is written again
    for file in sorted(folder.rglob("*.safetensors")):
        other_file = tmp_path / "run/again" / file.relative_to(folder)
        one, two = tensors_of(file), tensors_of(other_file)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    (tmp_path / "run").rename(tmp_path / "moved")  # a run may be moved with its base
    torch.testing.assert_close(logits(chiasm.load(tmp_path / "moved/checkpoint"), batch), expected, atol=0, rtol=0)


def test_another_base_is_refused(tmp_path: Path) -> None:
    model_folder.save(small_llava(), tmp_path / "base")
    model_folder.save(small_llava(seed=1), tmp_path / "other")
    folder = saved(adapt(small_llava(), {"language": KINDS["lora"]}), tmp_path / "base", tmp_path / "run")
    with pytest.raises(CheckpointError, match="has other weights"):
        chiasm.load(tmp_path / "other", adapter=folder)
    (tmp_path / "base").rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"not there; give it: chiasm\.load\(BASE, adapter"):
        chiasm.load(folder)
    assert isinstance(chiasm.load(tmp_path / "gone", adapter=folder), Model)
    with pytest.raises(CheckpointError, match="holds no adapter"):
        chiasm.load(tmp_path / "gone", adapter=tmp_path)


def test_peft_reads_the_checkpoint_of_a_run(tmp_path: Path) -> None:
    """Under our own names, on our own model: the folder is an adapter of peft like any other."""
    model = adapt(small_llava(), {"language": KINDS["lora"]})
    moved(model)
    folder = saved(model, tmp_path, tmp_path / "run")
    place = folder / "adapters/language"
    assert json.loads((place / "adapter_config.json").read_text())["peft_type"] == "LORA"
    fresh = small_llava()
    peft.PeftModel.from_pretrained(fresh, str(place))
    batch = batch_of(model)
    other_parts = {name: one for name, one in model.state_dict().items() if not name.startswith("language.")}
    put(fresh, other_parts)
    torch.testing.assert_close(logits(fresh, batch), logits(model, batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_adapter_when_layers_are_recomputed(kind: str) -> None:
    found = []
    for recomputing in (False, True):
        model = adapt(small_llava(), {"language": KINDS[kind], "vision": KINDS["lora"]}).train()
        moved(model)
        if recomputing:
            assert recompute_layers(model) == len(model.language.blocks) + len(model.vision.blocks)
        torch.autograd.backward(model.losses(batch_of(model))["next_token"])
        unread = f"vision.blocks.{len(model.vision.blocks)}"
        found.append({name: one.grad for name, one in model.named_parameters() if one.requires_grad})
        dead = [name for name, grad in found[-1].items() if grad is None or not grad.any()]
        assert not [name for name in dead if not name.startswith((unread, "vision.norm"))], dead
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "least", "worst"), [("nf4", 7.0, 0.12), ("int8", 3.5, 0.02)])
def test_a_quantised_base_stands_still_and_its_adapters_learn(
    kind: str, least: float, worst: float, tmp_path: Path
) -> None:
    if kind == "nf4":
        pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
    base = small_llava()
    model_folder.save(base, tmp_path / "base")
    entries = {"adapter": "lora", "rank": 4, "targets": ["q", "v"], "quantise": kind, "dora": True}
    config = parse(AdapterConfig, entries)  # type: ignore[type-abstract]  # one of its subclasses
    model = adapt(small_llava(), {"language": config})
    batch = batch_of(model)
    small = model.language.get_submodule("blocks.0.mlp.up")
    assert isinstance(small, SmallLinear)
    bits = sum(8 * one.numel() * one.element_size() for name, one in small.named_parameters() if name != "bias")
    assert 32 * small.in_features * small.out_features / bits > least
    whole = base.state_dict()["language.blocks.0.mlp.up.weight"]
    assert 0 < float((small.dequantize() - whole).norm() / whole.norm()) < worst
    for part in (model.vision, model.connector):
        part.requires_grad_(False)
    frozen = {name: one.clone() for name, one in model.named_parameters() if not one.requires_grad}
    optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model.losses(batch)["next_token"]
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(one, dict(model.named_parameters())[name]) for name, one in frozen.items())
    expected = logits(model, batch)
    again = chiasm.load(saved(model, tmp_path / "base", tmp_path / "run"))
    torch.testing.assert_close(logits(again, batch), expected, atol=1e-6, rtol=0)
    unquantised = merged(model)
    assert {one.dtype for one in unquantised.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(unquantised, batch), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_layer_computes_in_low_precision_as_its_values_would(kind: Quantised) -> None:
    if kind == "nf4":
        pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
    torch.manual_seed(0)
    part = nn.Sequential(nn.Linear(128, 64))
    quantise(part, kind)
    small = part[0]
    assert isinstance(small, SmallLinear)
    plain = nn.Linear(128, 64)
    with torch.no_grad():
        plain.weight.copy_(small.dequantize())
        plain.bias.copy_(small.bias)
    for low in (False, True):
        found = []
        for layer in (small, plain):
            x_TD = torch.linspace(-2, 2, 5 * 128).view(5, 128).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                y_TD = layer(x_TD)
            torch.autograd.backward(y_TD.float().square().sum())
            assert x_TD.grad is not None
            found.append((y_TD.detach(), x_TD.grad))
        (ours, our_grad), (theirs, their_grad) = found
        assert (ours.dtype, our_grad.dtype) == (theirs.dtype, their_grad.dtype)
        assert ours.dtype == (torch.bfloat16 if low else torch.float32)
        bound = 2e-2 if low else 1e-5
        torch.testing.assert_close(ours, theirs, atol=bound, rtol=bound)
        torch.testing.assert_close(our_grad, their_grad, atol=bound * float(their_grad.abs().max()), rtol=bound)


def test_averages_that_norms_count_belong_to_what_learned(tmp_path: Path) -> None:
    """Those of parts that learn beside the adapters; those of frozen parts are the base's."""
    config = replace(tiny_clip().config, vision=efficientnet_lite.Config())
    base = clip.CLIP(config, tiny_processor())
    model_folder.save(base, tmp_path / "base")
    model = adapt(chiasm.load(tmp_path / "base"), {"text": lora.Config(rank=2)})
    assert isinstance(model, clip.CLIP)
    batch = next(iter(Reader(Patches(8), tiny_processor(), 8)))
    model.train().losses(batch)
    model.get_submodule("vision.net.stem").requires_grad_(False)
    found = chiasm.load(saved(model, tmp_path / "base", tmp_path / "run")).state_dict()
    first = {name: one for name, one in base.state_dict().items() if name.endswith("running_mean")}
    kept = {name for name in first if name.startswith("vision.net.stem")}
    assert kept < first.keys()
    for name, tensor in first.items():
        assert torch.equal(found[name], tensor) == (name in kept)
        assert torch.equal(found[name], model.state_dict()[name]) == (name not in kept)


def test_only_what_learns_has_a_state_in_the_optimiser() -> None:
    from chiasm.training.optimiser import build_optimiser
    from chiasm.training.settings import Training

    model = adapt(small_language(), {"language": KINDS["lora"]})
    optimiser = build_optimiser(model, Training(1))
    held = [name for group in optimiser.param_groups for name in group["names"]]
    assert held
    assert all(".lora_" in name for name in held)


def test_what_cannot_be_adapted_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"adapters\.langage: the model has no such part; did you mean 'language'"):
        adapt(small_language(), {"langage": lora.Config()})
    with pytest.raises(RecipeError, match="no linear layer is called 'q_proj'"):
        adapt(small_language(), {"language": lora.Config(targets=("q_proj",))})
    with pytest.raises(RecipeError, match="adapt the same layers"):
        adapt(small_language(), {"language": lora.Config(), "language.blocks": lora.Config()})
    with pytest.raises(RecipeError, match="peft has no adapter of the kind 'LoHo'; did you mean 'LoHa'"):
        adapt(small_language(), {"language": other.Config(kind="LoHo")})
    with pytest.raises(RecipeError, match=r"settings\.rank: peft's LoHa has no such field"):
        adapt(small_language(), {"language": other.Config(kind="LoHa", settings={"rank": 3})})
    model = adapt(small_language(), {"language": lora.Config()})
    with pytest.raises(RecipeError, match="has adapters already"):
        adapt(model, {"language": lora.Config()})
    assert merged(merged(model)).adaptation is None
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"chiasm\[adapters\]"):
        adapt(small_language(), {"language": lora.Config()})


def test_quantised_weights_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtra, match=r"chiasm\[quantised\]"):
        adapt(small_language(), {"language": lora.Config(quantise="nf4")})


def test_a_head_over_the_vocabulary_is_no_target() -> None:
    """Its weight is read directly, so an adapter on it would change nothing."""
    model = small_language()
    model.language.head = nn.Linear(4, 4)
    assert linear_layers(model)
    assert not [name for name in linear_layers(model) if name.endswith("head")]
    assert math.isclose(len(linear_layers(model.language)), 7 * len(model.language.blocks))
