"""The packaged GGUF of SmolLM2: converted once, and it answers as it was trained to."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import transformers

from chiasm.data.sample import Sample, Text
from chiasm.errors import CheckpointError, MissingExtra
from chiasm.models.language import Language
from chiasm.nn.decoder import Packed, positions_of
from chiasm.weights import gguf
from chiasm.weights.packages import smollm2_135m
from tests import peers  # noqa: F401  # before any class of transformers is touched

pytestmark = pytest.mark.xdist_group("smollm2")


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Language, Path]]:
    """The model, converted anew, and its folder."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CHIASM_CACHE", str(tmp_path_factory.mktemp("cache")))
        try:
            yield smollm2_135m.language(), smollm2_135m.folder()
        except MissingExtra as error:
            pytest.skip(str(error))


def asked(question: str) -> Sample:
    return Sample(question, (Text(question, role="user"),))


@pytest.mark.slow
def test_smollm2_is_converted_once_and_answers(smollm2: tuple[Language, Path]) -> None:
    model, folder = smollm2
    (answered,) = model.generate([asked("What is the capital of France?")], max_tokens=12)
    assert answered.texts[-1].text == "The capital of France is Paris."
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert smollm2_135m.folder() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    assert [one.name for one in folder.parent.iterdir()] == [folder.name]  # nothing half-made is left


@pytest.mark.slow
def test_smollm2_is_that_of_transformers_in_words_scores_and_answers(smollm2: tuple[Language, Path]) -> None:
    """On the trained weights, with answers of two lengths in one batch."""
    model, folder = smollm2
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    questions = ["What is the capital of France?", "Write a short poem about 12 red boats."]
    found = model.generate([asked(question) for question in questions], max_tokens=16)
    # In float64: 30 layers deep, float32 rounds by more than the comparison allows.
    exact, exact_theirs = deepcopy(model.language).double(), deepcopy(theirs).double()
    for question, answered in zip(questions, found, strict=True):
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        row = ids[0].tolist()
        assert model.processor.tokens(asked(question), answer=True)[0] == row
        with torch.no_grad():
            expected = exact_theirs(ids).logits[0]
            h_TD = exact(exact.embed(ids[0]), positions_of([len(row)]), Packed([len(row)]))
            torch.testing.assert_close(exact.logits(h_TD), expected, atol=1e-4, rtol=1e-4)
            said = theirs.generate(ids, max_new_tokens=16, do_sample=False)[0, len(row) :]
        assert answered.texts[-1].text == tokenizer.decode(said, skip_special_tokens=True)


def test_what_is_no_gguf_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "bad.gguf").write_bytes(b"no model" * 100)
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        gguf.load(tmp_path / "bad.gguf")
    with pytest.raises(CheckpointError, match="cannot read"):
        gguf.converted(tmp_path / "absent.gguf")
