"""Kosmos-2 against Kosmos2ForConditionalGeneration and its processor, on tiny random checkpoints that those wrote."""

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import transformers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import chiasm
from chiasm.data.box_formats.floats import located
from chiasm.data.image import Image
from chiasm.data.sample import Box, GroundedSpan, Sample, Text
from chiasm.errors import CheckpointError
from chiasm.models import folder, kosmos2
from chiasm.nn.decoder import Packed
from chiasm.weights.transformers import save
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.shared_data import shared_data
from tests.weights.generating import TEXTS
from tests.weights.shaking import shaken

SIZE, LATENTS = 28, 6
ROWS: tuple[tuple[str, list[Any] | None], ...] = (
    ("<grounding> An image of", None),
    ("<grounding><phrase> a red ball</phrase>", None),
    ("Two dogs, left of the table.", None),
    (
        "<grounding> It is<phrase> a red ball</phrase> and<phrase> two dogs</phrase> here",
        [(0.1, 0.2, 0.5, 0.9), [(0.0, 0.25, 0.5, 1.0), (0.5, 0.5, 0.75, 0.625)]],
    ),
)


@contextmanager
def doubles() -> Iterator[None]:
    """Their causal mask is made in torch's default type, whatever that of the weights is."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@functools.cache
def pieces() -> tuple[tuple[str, float], ...]:
    """Words, and letters for the rest; not learned, for that may end a little differently each time."""
    words = sorted({f"\u2581{word}" for text in TEXTS for word in text.split()})[:50]
    letters = sorted({"\u2581", *(one for text in TEXTS for one in text if not one.isspace() and not one.isdigit())})
    learned = [(one, -float(at)) for at, one in enumerate([*words, *letters], start=1)]
    marks = [(one, 0.0) for one in ("<s>", "<pad>", "</s>", "<unk>")]
    return (*marks, *learned, *((str(one), -99.0) for one in range(10)), ("<mask>", 0.0))


def processor() -> Any:
    return transformers.Kosmos2Processor(
        CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}),
        transformers.XLMRobertaTokenizer(vocab=list(pieces())),
    )


def peer(where: Path, tied: bool = True) -> tuple[Any, Any]:
    reading = processor()
    torch.manual_seed(0)
    text = {
        "vocab_size": len(reading.tokenizer) + 3,
        "embed_dim": 32,
        "layers": 3,
        "ffn_dim": 48,
        "attention_heads": 4,
        "max_position_embeddings": 128,
        "init_std": 0.3,
        "layer_norm_eps": 1e-2,
        "activation_function": "gelu" if tied else "quick_gelu",
        "pad_token_id": 1 if tied else 2,  # no text here holds it
        "scale_embedding": tied,
        "tie_word_embeddings": tied,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIZE,
        "patch_size": 14,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-2,
        "initializer_range": 0.3,
        "initializer_factor": 5.0,
    }
    config = transformers.Kosmos2Config(
        text_config=text, vision_config=vision, latent_query_num=LATENTS, tie_word_embeddings=tied
    )
    model = transformers.Kosmos2ForConditionalGeneration(config)
    shaken(model, 0.2)
    model.save_pretrained(where)
    reading.save_pretrained(where)
    return model, reading


def loaded(where: Path) -> kosmos2.Kosmos2:
    ours = chiasm.load(where)
    assert isinstance(ours, kosmos2.Kosmos2)
    return ours


def photo() -> Path:
    return min(shared_data("coco").rglob("*.jpg"))


def asked(reading: Any, text: str, boxes: list[Any] | None, path: Path) -> Any:
    picture = PIL.Image.open(path).convert("RGB")
    return reading(images=picture, text=text, bboxes=boxes, num_image_tokens=LATENTS, return_tensors="pt")


def grounded(path: Path, target: bool = False) -> Sample:
    """The last row, its boxes as ours has them."""
    ball, dogs = (Box((0.1, 0.2, 0.5, 0.9), "a red ball"),), ((0.0, 0.25, 0.5, 1.0), (0.5, 0.5, 0.75, 0.625))
    said = "It is a red ball and two dogs here"
    grounded_spans = (GroundedSpan((6, 16), ball), GroundedSpan((21, 29), tuple(Box(one, "two dogs") for one in dogs)))
    return Sample("a", (Image(path), Text("<grounding>"), Text(said, grounded_spans=grounded_spans, target=target)))


@pytest.mark.parametrize("tied", [True, False])
def test_tokens_pixels_and_scores_agree(tied: bool, tmp_path: Path) -> None:
    theirs, reading = peer(tmp_path, tied)
    ours = loaded(tmp_path)
    image_token = ours.processor.image_token_ids[0]
    theirs.double()
    ours.double()
    for text, boxes in ROWS:
        inputs = asked(reading, text, boxes, photo())
        sample = Sample("a", (Image(photo()), Text(text))) if boxes is None else grounded(photo())
        batch = ours.processor.prompts([sample])
        assert batch.stream is not None
        assert batch.images is not None
        known = inputs.input_ids[0].masked_fill(inputs.image_embeds_position_mask[0].bool(), image_token)
        assert batch.stream.ids_T.tolist() == known.tolist()
        assert batch.stream.image_mask_T.long().tolist() == inputs.image_embeds_position_mask[0].tolist()
        assert torch.allclose(batch.images.pixels, inputs.pixel_values, atol=1e-5)
        batch = replace(batch, images=batch.images.with_pixels(batch.images.pixels.double()))
        exact = {name: one.double() if one.is_floating_point() else one for name, one in inputs.items()}
        with torch.no_grad(), doubles():
            expected = theirs(**exact).logits[0]
        with torch.no_grad():
            prompt = ours.embedded(batch)
            found = ours.language.logits(ours.language(prompt.x_TD, prompt.positions, Packed(prompt.lengths)))
        assert float(expected.std()) > 0.1
        assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_losses_count_the_learned_words_and_boxes(tmp_path: Path) -> None:
    theirs, reading = peer(tmp_path)
    ours = loaded(tmp_path)
    batch = ours.processor([grounded(photo(), target=True)])
    assert batch.stream is not None
    inputs = asked(reading, *ROWS[-1], photo())
    ids = batch.stream.ids_T.tolist()
    begins = ids.index(ours.processor.backend.token_to_id("<grounding>")) + 1
    assert batch.stream.target_T.tolist() == [at >= begins for at in range(len(ids))]
    assert ids[-1] == ours.processor.end_ids[0]
    labels = torch.full_like(batch.stream.ids_T, -100)
    labels[begins:] = batch.stream.ids_T[begins:]
    end = torch.tensor([[ids[-1]]])
    more = {
        "input_ids": torch.cat([inputs.input_ids, end], 1),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "image_embeds_position_mask": torch.cat([inputs.image_embeds_position_mask, torch.zeros_like(end)], 1),
    }
    with torch.no_grad():
        expected = theirs(pixel_values=inputs.pixel_values, labels=labels[None], **more).loss
        assert float(ours.losses(batch)["next_token"]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_replies_agree(beams: int, tmp_path: Path) -> None:
    theirs, reading = peer(tmp_path)
    ours = loaded(tmp_path)
    said = []
    for text, _ in ROWS[:3]:
        inputs = asked(reading, text, None, photo())
        with torch.no_grad():
            ids = theirs.generate(**inputs, max_new_tokens=10, do_sample=False, num_beams=beams)[0]
        said.append(ours.processor.decode(ids[inputs.input_ids.shape[1] :].tolist()))
    samples = [Sample(text, (Image(photo()), Text(text))) for text, _ in ROWS[:3]]
    assert [one.texts[-1].text for one in ours.generate(samples, max_tokens=10, beams=beams)] == said
    assert len(set(said)) > 1


def test_location_tokens_survive_decoding_and_are_read(tmp_path: Path) -> None:
    peer(tmp_path)
    ours = loaded(tmp_path)
    text = "there is<phrase> a red ball</phrase><object><patch_index_0044><patch_index_0863></object>"
    ids = [*ours.processor.ids(text), *ours.processor.end_ids]
    reply = ours.processor.decode(ids)
    found = ours.processor.reading(Sample("a", (Image(photo()),)), reply)
    assert (found.text, found.unclear) == ("there is a red ball", ())
    assert found.boxes[0].corners == (0.390625, 0.046875, 0.984375, 0.828125)
    assert ours.processor.settings.boxes is not None
    assert located(ours.processor.settings.boxes, Sample("a", (Image(photo()),)), f"{reply} <object>") == (
        "there is a red ball [0.3906, 0.0469, 0.9844, 0.8281] [?]"
    )


def test_all_verbs_work(tmp_path: Path) -> None:
    peer(tmp_path)
    ours = loaded(tmp_path)
    noise = Image(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    for by in ours.scorings:
        scores = ours.score([Image(photo()), noise], ["a red ball", "two dogs"], by=by)  # type: ignore[arg-type]
        assert scores.shape == (2, 2)
        assert scores.isfinite().all()
        assert len(scores.unique()) == 4
    each = [ours.log_likelihood([grounded(path, target=True)]) for path in (photo(), photo())]
    both = ours.log_likelihood([grounded(photo(), target=True)] * 2)
    assert torch.allclose(torch.cat(each), both, atol=1e-4)
    asked_alike = [[Text("Two dogs")], [Text("<grounding><phrase>a red ball</phrase>")]]
    begun = Sample("a", (Image(photo()),))
    alone = ours.generate([replace(begun, parts=(*begun.parts, *one)) for one in asked_alike], max_tokens=5)
    assert ours.answers(begun, asked_alike, max_tokens=5) == [one.texts[-1].text for one in alone]


def test_what_we_write_transformers_reads(tmp_path: Path) -> None:
    theirs, reading = peer(tmp_path / "theirs")
    ours = loaded(tmp_path / "theirs")
    save(ours, tmp_path / "ours")
    again = transformers.Kosmos2ForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    inputs = asked(reading, *ROWS[0], photo())
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, theirs(**inputs).logits)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    rebuilt = transformers.Kosmos2Processor(CLIPImageProcessorPil.from_pretrained(tmp_path / "ours"), tokenizer)
    same = asked(rebuilt, *ROWS[-1], photo())
    assert same.input_ids.tolist() == asked(reading, *ROWS[-1], photo()).input_ids.tolist()
    assert torch.equal(same.pixel_values, inputs.pixel_values)
    sample = Sample("a", (Image(photo()), Text(ROWS[0][0])))
    folder.save(ours, tmp_path / "own")
    for where in ("ours", "own"):
        assert loaded(tmp_path / where).generate([sample], max_tokens=8) == ours.generate([sample], max_tokens=8)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    peer(tmp_path)
    ours = loaded(tmp_path)
    ours.processor.settings = replace(ours.processor.settings, boxes=None)
    with pytest.raises(CheckpointError, match="on a grid of 32"):
        save(ours, tmp_path / "ours")
    file = tmp_path / "config.json"
    settings = json.loads(file.read_text())
    settings["text_config"]["add_cross_attention"] = True
    file.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="add_cross_attention"):
        chiasm.load(tmp_path)


def test_the_published_size_has_as_many_parameters_as_theirs() -> None:
    """Table 1 of the model card: 1.66 billion."""
    with torch.device("meta"):
        theirs = transformers.Kosmos2ForConditionalGeneration(transformers.Kosmos2Config())
    count = kosmos2.SIZES["patch14-224"].parameters()
    assert count == sum(one.numel() for one in theirs.parameters())
    assert round(count / 1e7) == 166
