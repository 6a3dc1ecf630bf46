"""The packaged GGUF of SmolLM2: converted once, and it answers as it was trained to."""

from pathlib import Path

import pytest

from chiasm.data.sample import Sample, Text
from chiasm.errors import CheckpointError, MissingExtra
from chiasm.weights import gguf
from chiasm.weights.packages import smollm2_135m


def test_smollm2_is_converted_once_and_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path))
    try:
        model = smollm2_135m.language()
    except MissingExtra as error:
        pytest.skip(str(error))
    question = Sample("france", (Text("What is the capital of France?", role="user"),))
    (answered,) = model.generate([question], max_tokens=12)
    assert answered.texts[-1].text == "The capital of France is Paris."
    folder = smollm2_135m.folder()
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert smollm2_135m.folder() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    assert [one.name for one in folder.parent.iterdir()] == [folder.name]  # nothing half-made is left


def test_what_is_no_gguf_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "bad.gguf").write_bytes(b"no model" * 100)
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        gguf.load(tmp_path / "bad.gguf")
    with pytest.raises(CheckpointError, match="cannot read"):
        gguf.converted(tmp_path / "absent.gguf")
