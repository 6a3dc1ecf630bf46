"""Models that transformers computes, behind our verbs, against transformers asked by itself."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml

import chiasm
from chiasm.adaptation.blend import blend
from chiasm.cli import main
from chiasm.data.image import Image
from chiasm.data.sample import Sample, Text, Video
from chiasm.errors import CapabilityError, CheckpointError, DataError
from chiasm.evaluation.result import Evaluation
from chiasm.generation.choosing import Sampling
from chiasm.models.caption_scores import SHOWN, grey
from chiasm.weights.foreign import ForeignModel
from chiasm.weights.foreign.comparing import ForeignEmbedder, ForeignMatcher
from chiasm.weights.foreign.generative import ForeignGenerativeModel, ForeignVisionLanguageModel
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.weights import foreign
from tests.weights.foreign import COMPARING, READING, SEEING

Make = Callable[[Path], Any]
QUESTION = "two dogs"


def pictures(count: int = 2) -> list[Image]:
    rng = np.random.default_rng(0)
    return [Image(rng.integers(0, 255, (40 + 30 * at, 70, 3), np.uint8)) for at in range(count)]


def asked(processor: Any, image: Image | None, question: str) -> Any:
    """What transformers makes of a question, in the way that its documents show."""
    if not isinstance(processor, transformers.ProcessorMixin):
        if not processor.chat_template:
            return processor(question, return_tensors="pt")
        chat = [{"role": "user", "content": question}]
        told = processor.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        told.pop("token_type_ids", None)
        return told
    assert image is not None
    if not processor.chat_template:
        mark = "<image>" if "PaliGemma" in type(processor).__name__ else ""
        return processor(images=image.decode(), text=f"{mark}{question}", return_tensors="pt")
    content = [{"type": "image", "image": image.decode()}, {"type": "text", "text": question}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def forward_likelihood(model: Any, inputs: Any, ids: list[int]) -> float:
    """log p of tokens behind a prompt, by one pass over both: no generation."""
    given = dict(inputs)
    target = torch.tensor([ids])
    if model.config.is_encoder_decoder:
        with torch.no_grad():
            logits = model(**given, labels=target).logits
        return float(logits.log_softmax(-1).gather(-1, target[..., None]).sum())
    if model.config.model_type == "blip":  # begins with a mark of its own, and no mark ends its prompt
        given["input_ids"] = given["input_ids"][:, :-1].clone()
        given["attention_mask"] = given["attention_mask"][:, :-1]
        given["input_ids"][:, 0] = model.config.text_config.bos_token_id
        given.pop("token_type_ids", None)
    filled = {
        "attention_mask": 1,
        "token_type_ids": int(model.config.model_type == "paligemma"),
        "mm_token_type_ids": 0,
    }
    given["input_ids"] = torch.cat([given["input_ids"], target], 1)
    for name, value in filled.items():
        if name in given:
            given[name] = torch.cat([given[name], torch.full_like(target, value)], 1)
    given.pop("labels", None)
    with torch.no_grad():
        logits = model(**given).logits[:, -len(ids) - 1 : -1]
    return float(logits.log_softmax(-1).gather(-1, target[..., None]).sum())


@pytest.mark.parametrize("make", [*SEEING, *READING], ids=lambda make: make.__name__)
def test_answers_and_likelihoods_are_those_of_transformers(make: Make, tmp_path: Path) -> None:
    theirs = make(tmp_path)
    ours = chiasm.load(tmp_path)
    assert isinstance(ours, ForeignVisionLanguageModel if make in SEEING else ForeignGenerativeModel)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    tokenizer = getattr(processor, "tokenizer", processor)
    end = ours.processor.end_ids[0]
    for image in pictures() if make in SEEING else [None]:
        shown = (image,) if image is not None else ()
        sample = Sample("a", (*shown, Text(QUESTION, role="user")))
        inputs = asked(processor, image, QUESTION)
        with torch.no_grad():
            told = theirs.generate(**inputs, max_new_tokens=6, do_sample=False)[0]
        if not theirs.config.is_encoder_decoder and theirs.config.model_type != "blip":
            told = told[inputs["input_ids"].shape[1] :]
        expected = tokenizer.decode(told, skip_special_tokens=True)
        (answered,) = ours.generate([sample], max_tokens=6)
        if theirs.config.model_type == "blip":  # which repeats the prompt
            assert expected.startswith(f"{QUESTION} ")
            expected = expected.removeprefix(f"{QUESTION} ")
        assert answered.texts[-1].text == expected
        assert expected
        assert answered.texts[-1].role == "assistant"
        learned = Sample("b", (*shown, Text(QUESTION, role="user"), Text("a dog", role="assistant", target=True)))
        ids = [*tokenizer("a dog", add_special_tokens=False).input_ids, end]
        assert float(ours.log_likelihood([learned])[0]) == pytest.approx(
            forward_likelihood(theirs, inputs, ids), rel=1e-4
        )


@pytest.mark.parametrize("make", SEEING, ids=lambda make: make.__name__)
def test_scores_are_likelihoods_of_captions(make: Make, tmp_path: Path) -> None:
    make(tmp_path)
    ours = chiasm.load(tmp_path)
    assert isinstance(ours, ForeignVisionLanguageModel)
    images, texts = pictures(), ["a dog", "two dogs left of a cat"]
    counts = torch.tensor([len(ours.processor.ids(text)) + 1 for text in texts])  # and the mark that ends them
    each = [[Sample("a", (image, Text(text, target=True))) for text in texts] for image in images]
    plain = torch.stack([ours.log_likelihood(row) / counts for row in each])
    assert torch.allclose(ours.score(images, texts), plain, rtol=1e-4)
    blind = torch.stack(
        [
            ours.log_likelihood([Sample("a", (grey(*one.size), Text(text, target=True))) for text in texts])
            for one in images
        ]
    )
    assert torch.allclose(ours.score(images, texts, by="gain"), plain - blind / counts, atol=1e-3)
    assert plain.std(0).min() > 1e-5  # the picture counts
    if make.__name__ not in ("florence2", "blip"):  # whose tokenizers do not say these words, or end them in other ways
        said = [
            [
                forward_likelihood(
                    ours.inner, asked(ours.processor.inner, image, SHOWN.format(text)), ours.processor.ids(word)
                )
                for text in texts
            ]
            for word in ("Yes", "No")
            for image in images
        ]
        found = ours.score(images, texts, by="yes")
        assert torch.allclose(found, torch.tensor(said[:2]) - torch.tensor(said[2:]), atol=1e-3)


@pytest.mark.parametrize("make", COMPARING, ids=lambda make: make.__name__)
def test_embeddings_are_those_of_transformers(make: Make, tmp_path: Path) -> None:
    theirs = make(tmp_path)
    ours = chiasm.load(tmp_path)
    assert isinstance(ours, ForeignEmbedder)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    images, texts = pictures(3), ["a dog", "two dogs left of a red circle", "a cat", "dog " * 40]
    padding = {"padding": "max_length" if make.__name__ == "align" else True, "truncation": True}
    inputs = processor(images=[image.decode() for image in images], text=texts, return_tensors="pt", **padding)
    with torch.no_grad():
        out = theirs(**inputs)
    assert torch.allclose(
        ours.embed_images(images), out.image_embeds / out.image_embeds.norm(dim=-1, keepdim=True), atol=1e-5
    )
    assert torch.allclose(
        ours.embed_texts(texts), out.text_embeds / out.text_embeds.norm(dim=-1, keepdim=True), atol=1e-5
    )
    assert ours.score(images, texts).shape == (3, 4)
    assert ours.embed_texts(texts).std(0).max() > 1e-3


def test_a_head_that_matches_scores_pairs(tmp_path: Path) -> None:
    theirs = foreign.blip_retrieval(tmp_path)
    ours = chiasm.load(tmp_path)
    assert isinstance(ours, ForeignMatcher)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    images, texts = pictures(), ["a dog", "two dogs left of a red circle", "a cat"]
    for by, head in (("matching", True), ("similarity", False)):
        found = ours.score(images, texts, by=by)
        for row, image in enumerate(images):
            for column, text in enumerate(texts):
                with torch.no_grad():
                    told = theirs(**processor(images=image.decode(), text=text, return_tensors="pt"), use_itm_head=head)
                expected = told.itm_score.softmax(-1)[0, 1].log() if head else told.itm_score[0, 0]
                assert float(found[row, column]) == pytest.approx(float(expected), rel=1e-4)
    assert not hasattr(ours, "generate")


def test_draws_beams_and_stops(tmp_path: Path) -> None:
    theirs = foreign.gemma(tmp_path)
    ours = chiasm.load(tmp_path)
    assert isinstance(ours, ForeignGenerativeModel)
    inputs = asked(transformers.AutoTokenizer.from_pretrained(tmp_path), None, QUESTION)
    sample = Sample("a", (Text(QUESTION, role="user"),))
    with torch.no_grad():
        told = theirs.generate(**inputs, max_new_tokens=6, do_sample=False, num_beams=3)[
            0, inputs["input_ids"].shape[1] :
        ]
    assert ours.generate([sample], max_tokens=6, beams=3)[0].texts[-1].text == ours.processor.decode(told.tolist())
    drawn = [
        ours.generate([sample], max_tokens=8, sampling=Sampling(1.5, seed=seed))[0].texts[-1].text for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    whole = ours.generate([sample], max_tokens=6)[0].texts[-1].text
    assert (
        ours.generate([sample], max_tokens=6, stop=[whole[2:4]])[0].texts[-1].text == whole[: whole.index(whole[2:4])]
    )


TASKS = """
name: asked
data: {train: {source: scenes, seed: 1, count: 4}, batch_size: 4}
model: {family: clip, size: small}
training: {steps: 1, learning_rate: 1e-3}
evaluation:
  - {task: retrieval, captions: first, limit: 3, data: {source: scenes, seed: 2, count: 3, size: 32}}
  - task: existence
    each: 1
    splits: [random]
    limit: 3
    data: {source: scenes, seed: 2, count: 4, size: 32, objects: [1, 1]}
"""


@pytest.mark.parametrize("make", [foreign.paligemma, foreign.align, foreign.blip_retrieval])
def test_tasks_ask_them_too(make: Make, tmp_path: Path) -> None:
    make(tmp_path / "model")
    (tmp_path / "tasks.yaml").write_text(TASKS)
    words = ["eval", str(tmp_path / "model"), "--tasks", str(tmp_path / "tasks.yaml"), "--out", str(tmp_path / "out")]
    assert main([*words, "--quiet", "--baselines", "constant"]) == 0
    found = Evaluation.load(tmp_path / "out" / "evaluation")
    assert [result.name for result in found.results] == ["retrieval", "existence"]
    assert all(result.headline.failed == 0 for result in found.results)
    assert "foreign" in found.model["family"]


def test_without_torchvision_a_processor_does_without_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign.qwen2_5_vl(tmp_path)
    whole = chiasm.load(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise ImportError("Qwen2VLVideoProcessor requires the Torchvision library")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", refuse)
    monkeypatch.setattr(transformers.AutoVideoProcessor, "from_pretrained", refuse)
    ours = chiasm.load(tmp_path)
    assert isinstance(whole, ForeignGenerativeModel)
    assert isinstance(ours, ForeignGenerativeModel)
    assert not hasattr(ours.processor.inner, "video_processor")
    sample = Sample("a", (*pictures(), Text(QUESTION, role="user")))
    assert ours.generate([sample], max_tokens=6) == whole.generate([sample], max_tokens=6)


def test_they_are_told_to_be_foreign_and_not_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign.phi(tmp_path / "model")
    assert main(["show", str(tmp_path / "model")]) == 0
    shown = capsys.readouterr().out
    assert "phi (foreign: transformers' PhiForCausalLM)" in shown
    assert "generate" in shown
    recipe = yaml.safe_load(TASKS)
    del recipe["model"]
    recipe["start"] = {"checkpoint": str(tmp_path / "model")}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", str(tmp_path / "train.yaml"), "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr()
    assert "can be asked and evaluated, but not trained here" in told.err
    assert "Traceback" not in told.err + told.out
    assert not (tmp_path / "run" / "checkpoint").exists()
    model = chiasm.load(tmp_path / "model")
    assert isinstance(model, ForeignModel)
    with pytest.raises(CapabilityError, match="not blended"):
        blend(model, model, 0.5)
    with pytest.raises(CapabilityError, match="not trained"):
        model.losses(None)  # type: ignore[arg-type]  # it does not come so far


def test_what_cannot_be_asked_is_one_sentence(tmp_path: Path) -> None:
    foreign.gemma3(tmp_path)
    ours = chiasm.load(tmp_path)
    assert isinstance(ours, ForeignVisionLanguageModel)
    (image,) = pictures(1)
    for sample, told in (
        (Sample("a", (Video((image,), (0.0,)), Text("what?", role="user"))), "has videos"),
        (
            Sample("a", (image, Text("what? " * 400, role="user"))),
            r"has \d+ tokens, pictures included, but the context is 400",
        ),
        (
            Sample("a", (image, Text("what is <start_of_image>?", role="user"))),
            "1 pictures, but the chat template made room for 2",
        ),
    ):
        with pytest.raises(DataError, match=told):
            ours.generate([sample], max_tokens=4)
    with pytest.raises(DataError, match="scores one text, at the end"):
        ours.log_likelihood([Sample("a", (Text("a", role="assistant", target=True), Text("b", role="user")))])
    with pytest.raises(DataError, match="nothing to score"):
        ours.log_likelihood([Sample("a", (Text("b", role="user"),))])


def test_no_pickles_no_code_no_unknowns(tmp_path: Path) -> None:
    foreign.phi(tmp_path / "phi")
    config = (tmp_path / "phi" / "config.json").read_text()
    pickled = tmp_path / "pickled"
    shutil.copytree(tmp_path / "phi", pickled)
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds no safetensors; of a 'phi'"):
        chiasm.load(pickled)
    own = tmp_path / "own"
    shutil.copytree(tmp_path / "phi", own)
    own_code = '"auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}, '
    (own / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (own / "config.json").write_text(config.replace('"model_type": "phi"', own_code + '"model_type": "phi_of_mine"'))
    with pytest.raises(CheckpointError, match="runs only by code of its own; such code is never run"):
        chiasm.load(own)
    (own / "config.json").write_text(config.replace('"model_type": "phi"', own_code + '"model_type": "phi"'))
    assert isinstance(chiasm.load(own), ForeignGenerativeModel)  # transformers' own class
    assert not (tmp_path / "ran").exists()
    (own / "config.json").write_text(
        config.replace('"model_type": "phi"', '"model_type": "vit"').replace("PhiForCausalLM", "ViTModel")
    )
    with pytest.raises(CheckpointError, match="can neither embed, score nor generate"):
        chiasm.load(own)
