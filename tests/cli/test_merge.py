"""`chiasm merge`: the model with its adapters merged, or the adapters alone, as other programs open them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import chiasm
from chiasm.adaptation.adapted import adapt
from chiasm.adaptation.adapters import lora
from chiasm.cli import main
from chiasm.models.generative import GenerativeModel
from chiasm.weights import transformers as foreign
from tests.adaptation.test_adapters import batch_of, logits, moved, saved
from tests.models.generative_models import small_language

peft = pytest.importorskip("peft", reason="pip install peft")
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("kind", ["chiasm", "transformers", "peft"])
def test_what_is_written_says_what_the_run_says(kind: str, tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    foreign.save(small_language(), base)
    run = saved(moved(adapt(small_language(), {"language": lora.Config(rank=4)})), base, tmp_path / "run")
    model = chiasm.load(run)
    assert isinstance(model, GenerativeModel)
    batch = batch_of(model, imaged=False)
    expected = logits(model, batch)
    assert float((logits(chiasm.load(base), batch) - expected).abs().max()) > 1e-2
    assert main(["merge", str(run), "--out", str(out), "--for", kind, "--base", str(base)]) == 0
    if kind == "chiasm":
        torch.testing.assert_close(logits(chiasm.load(out), batch), expected, atol=1e-5, rtol=1e-5)
        return
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out if kind == "transformers" else base)
    if kind == "peft":
        theirs = peft.PeftModel.from_pretrained(theirs, str(out))
    assert batch.stream is not None
    ids = batch.stream.ids_T[: int(batch.stream.lengths_B[0])]
    with torch.no_grad():
        found = theirs.eval()(ids[None]).logits[0]
    torch.testing.assert_close(found, expected[: len(ids)], atol=1e-4, rtol=1e-4)
