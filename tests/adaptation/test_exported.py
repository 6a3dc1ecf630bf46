"""Adapters of every family that sees, written under transformers' names, on transformers' own classes of it."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import chiasm
from chiasm.adaptation.adapted import adapt
from chiasm.adaptation.adapter import linear_layers
from chiasm.adaptation.adapters import lora
from chiasm.data.sample import Sample, Text
from chiasm.models.generative import VisionLanguageModel
from chiasm.weights import adapters as peft_folders
from chiasm.weights import transformers as foreign
from tests.adaptation.test_adapters import moved
from tests.models.generative_models import noise

peft = pytest.importorskip("peft", reason="pip install peft")
pytest.importorskip("transformers")

# Targets in the language model and in the image tower; layers that are stored as one have no adapters of their own.
PEERS: dict[str, tuple[str, tuple[Any, ...], tuple[str, ...], tuple[str, ...]]] = {
    "blip_2": ("stage2", (), ("q", "up"), ("out", "up")),
    "idefics": ("peer", (), ("q", "down"), ("q", "up")),
    "idefics2": ("peer", (True,), ("q", "down"), ("q", "up")),
    "idefics3": ("peer", ("idefics3",), ("q", "down"), ("q", "up")),
    "smolvlm": ("peer", ("smolvlm",), ("q", "down"), ("q", "up")),
    "internvl": ("peer", (), ("q", "down"), ("q", "up")),
    "kosmos_2": ("peer", (), ("q", "down"), ("q", "up")),
    "llava_next": ("peer", (), ("q", "down"), ("q", "up")),
    "qwen2_vl": ("peer", (), ("q", "down"), ("out", "up")),
}


def losses(model: Any) -> torch.Tensor:
    """Of two samples, as log-likelihoods of what is learned."""
    parts = ((noise(0, 64), Text(" two dogs", target=True)), (noise(1, 64), Text(" a cat", target=True)))
    found: torch.Tensor = model.log_likelihood([Sample(str(at), one) for at, one in enumerate(parts)])
    return found


@pytest.mark.parametrize("family", PEERS)
def test_an_exported_adapter_changes_their_model_as_it_changes_ours(family: str, tmp_path: Path) -> None:
    name, arguments, of_language, of_vision = PEERS[family]
    shared = "idefics3" if family == "smolvlm" else family
    module = importlib.import_module(f"tests.weights.test_transformers_{shared}")
    made = getattr(module, name)(tmp_path / "base", *arguments)
    theirs = made[0] if isinstance(made, tuple) else made
    base = chiasm.load(tmp_path / "base")
    layers = {one for one, layer in theirs.named_modules() if isinstance(layer, torch.nn.Linear)}
    names = foreign.linear_names(base)
    assert layers >= {names[one] for one in linear_layers(base) if one in names}
    model = chiasm.load(tmp_path / "base")
    assert isinstance(model, VisionLanguageModel)
    adapt(
        model, {"language": lora.Config(rank=2, targets=of_language), "vision": lora.Config(rank=2, targets=of_vision)}
    )
    for one, tensor in model.named_parameters():
        tensor.requires_grad_(".lora_" in one)
    moved(model)
    peft_folders.save_for_transformers(model, tmp_path / "adapter", str(tmp_path / "base"))
    for part in ("vision", "language"):
        theirs = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "adapter" / part)).merge_and_unload()
    shutil.copytree(tmp_path / "base", tmp_path / "merged")
    theirs.save_pretrained(tmp_path / "merged")
    expected = losses(chiasm.load(tmp_path / "merged"))
    torch.testing.assert_close(losses(model), expected, atol=1e-3, rtol=1e-4)
    assert float((losses(base) - expected).abs().min()) > 1e-2
