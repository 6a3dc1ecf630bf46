"""Idefics against IdeficsForVisionText2Text and its processor, on tiny random checkpoints that those wrote."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import tokenizers
import torch
import transformers
from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

import chiasm
from chiasm.data.chat_processor import ChatProcessor
from chiasm.data.image import Image
from chiasm.data.layouts.marked import Marked
from chiasm.data.sample import Sample, Text
from chiasm.errors import CheckpointError
from chiasm.models.flamingo import Flamingo
from chiasm.nn.decoder import Packed
from chiasm.weights.transformers import save
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.weights import generating
from tests.weights.shaking import shaken

MARKS = ("<fake_token_around_image>", "<image>")
SIZE = 28
Row = Sequence[Path | str]


def peer(folder: Path, extra: tuple[str, ...] = MARKS, additional: int = 2, **more: Any) -> Any:
    folder.mkdir(exist_ok=True)
    backend = tokenizers.Tokenizer.from_str(generating.vocabulary(extra=extra))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
    )
    torch.manual_seed(0)
    config = transformers.IdeficsConfig(
        **{
            "vocab_size": backend.get_vocab_size() - additional,
            "additional_vocab_size": additional,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "cross_layer_interval": 2,
            "qk_layer_norms": True,
            "initializer_range": 0.3,
            "rms_norm_eps": 1e-3,
            "use_resampler": True,
            "bos_token_id": backend.token_to_id("<|im_start|>"),
            "eos_token_id": backend.token_to_id("<|im_end|>"),
            "pad_token_id": backend.token_to_id("<|endoftext|>"),
            "vision_config": {
                "embed_dim": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": SIZE,
                "patch_size": 14,
                "hidden_act": "quick_gelu",
                "layer_norm_eps": 1e-2,
            },
            "perceiver_config": {
                "resampler_n_latents": 5,
                "resampler_depth": 2,
                "resampler_n_heads": 3,
                "resampler_head_dim": 8,
                "qk_layer_norms_perceiver": True,
            },
            **more,
        }
    )
    model = transformers.IdeficsForVisionText2Text(config)
    shaken(model, 0.3)
    model.save_pretrained(folder)
    images = IdeficsImageProcessorPil(image_size=SIZE)
    transformers.IdeficsProcessor(images, tokenizer, image_size=SIZE).save_pretrained(folder)
    return model


def processor(folder: Path) -> Any:
    return transformers.IdeficsProcessor(
        IdeficsImageProcessorPil.from_pretrained(folder),
        transformers.PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left"),
    )


def loaded(folder: Path) -> Flamingo:
    ours = chiasm.load(folder)
    assert isinstance(ours, Flamingo)
    ours.check()
    return ours


def told(row: Row, key: str = "a") -> Sample:
    """Words and pictures in order, as ours takes them."""
    return Sample(key, tuple(Text(one) if isinstance(one, str) else Image(one) for one in row))


def asked(proc: Any, rows: Sequence[Row]) -> Any:
    """And as theirs does."""
    prompts = [[one if isinstance(one, str) else PIL.Image.open(one).convert("RGB") for one in row] for row in rows]
    return proc(text=prompts, padding="longest", add_end_of_utterance_token=False, return_tensors="pt")


def rows_of(photos: Sequence[Path]) -> list[Row]:
    """Few-shot prompts, pictures that touch or stand last, words alone, and words behind the end of a text."""
    return [
        ["User:", photos[0], "What is in the picture?\nAssistant:"],
        [photos[0], "Output: two dogs\n", photos[1], "Output: a red ball\n", photos[2], "Output:"],
        ["There are 3 of them, left of the table."],
        ["A man who reads", photos[2], photos[3], photos[4], "is left of"],
        [photos[1], "a red ball<|im_end|>The answer is", photos[5], "yes;"],
        [photos[5], "no<|im_end|>of the table"],
        ["The answer:", photos[3]],
    ]


def logits(ours: Flamingo, samples: Sequence[Sample]) -> list[torch.Tensor]:
    """Of every token of each sample, in float64."""
    batch = ours.processor.prompts(samples)
    if batch.images is not None:
        batch = replace(batch, images=batch.images.with_pixels(batch.images.pixels.double()))
    with torch.no_grad():
        prompt = ours.double().embedded(batch)
        backend = Packed(prompt.lengths, prompt.visible)
        found = ours.language.logits(ours.language(prompt.x_TD, prompt.positions, backend))
    ours.float()
    return list(found.split(prompt.lengths))


def exact(theirs: Any, inputs: Any) -> torch.Tensor:
    given = {name: one.double() if one.is_floating_point() else one for name, one in inputs.items()}
    with torch.no_grad():
        found: torch.Tensor = theirs.double()(**given).logits
    theirs.float()
    return found


@pytest.mark.parametrize(
    "more",
    [
        {},
        {
            "qk_layer_norms": False,
            "alpha_type": "vector",
            "cross_layer_interval": 1,
            "perceiver_config": {
                "resampler_n_latents": 3,
                "resampler_depth": 1,
                "resampler_n_heads": 2,
                "resampler_head_dim": 16,
            },
        },
    ],
)
def test_pixels_tokens_and_logits_of_interleaved_rows_agree(more: dict[str, Any], tmp_path: Path) -> None:
    theirs = peer(tmp_path / "theirs", **more)
    ours, proc = loaded(tmp_path / "theirs"), processor(tmp_path / "theirs")
    rows = rows_of(generating.odd_photos(tmp_path / "photos"))
    inputs = asked(proc, rows)
    samples = [told(row, str(at)) for at, row in enumerate(rows)]
    batch = ours.processor.prompts(samples)
    assert batch.stream is not None
    assert batch.images is not None
    kept = inputs.attention_mask.bool()
    assert batch.stream.ids_T.tolist() == inputs.input_ids[kept].tolist()
    pictures = [sum(not isinstance(one, str) for one in row) for row in rows]
    pixels = torch.cat([one[:count] for one, count in zip(inputs.pixel_values, pictures, strict=True)])
    assert torch.allclose(batch.images.pixels, pixels, atol=1e-5)
    # Of the batch, padded there and packed here, and of each row alone.
    whole = exact(theirs, inputs)
    for row, sample, found, mask, known in zip(rows, samples, logits(ours, samples), kept, whole, strict=True):
        assert torch.allclose(found, known[mask], atol=1e-4, rtol=1e-4)
        assert torch.allclose(logits(ours, [sample])[0], exact(theirs, asked(proc, [row]))[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(ours, [told([photo_of(rows[1], 1), *rows[1][1:]])])[0][-1], whole[1][-1])


def photo_of(row: Row, at: int) -> Path:
    return [one for one in row if not isinstance(one, str)][at]


def test_greedy_and_beam_answers_agree_alone_and_together(tmp_path: Path) -> None:
    theirs = peer(tmp_path / "theirs")
    ours, proc = loaded(tmp_path / "theirs"), processor(tmp_path / "theirs")
    rows = rows_of(generating.odd_photos(tmp_path / "photos"))
    for beams in (1, 3):
        said: list[list[str]] = []
        for some in (*([row] for row in rows), rows):
            inputs = asked(proc, some)
            with torch.no_grad():
                tokens = theirs.generate(**inputs, max_new_tokens=8, do_sample=False, num_beams=beams)
            said.append([ours.processor.decode(one.tolist()) for one in tokens[:, inputs.input_ids.shape[1] :]])
        alone = [one[0] for one in said[:-1]]
        found = [ours.generate([told(row)], max_tokens=8, beams=beams)[0].texts[-1].text for row in rows]
        assert found == alone
        together = ours.generate([told(row) for row in rows], max_tokens=8, beams=beams)
        assert [one.texts[-1].text for one in together] == said[-1]
        assert len(set(alone)) > 2, "a model that says one thing to all proves nothing"


def test_losses_agree_where_theirs_can_be_computed(tmp_path: Path) -> None:
    """With words of its own beside the others, theirs fails."""
    theirs = peer(tmp_path / "theirs", additional=0)
    ours, proc = loaded(tmp_path / "theirs"), processor(tmp_path / "theirs")
    photos = generating.odd_photos(tmp_path / "photos")
    rows: list[list[Path | str]] = [
        [photos[0], "Output: two dogs\n", photos[1], "Output:"],
        [photos[2], "It is"],
        ["The answer is"],
    ]
    samples = [Sample(str(at), (*told(row).parts, Text(" a red ball", target=True))) for at, row in enumerate(rows)]
    batch = ours.processor(samples)
    assert batch.stream is not None
    assert batch.stream.target_T.sum() > 6
    sums = 0.0
    for at, (ids, target) in enumerate(
        zip(
            batch.stream.ids_T.split(batch.stream.lengths_B.tolist()),
            batch.stream.target_T.split(batch.stream.lengths_B.tolist()),
            strict=True,
        )
    ):
        inputs = asked(proc, [[*rows[at][:-1], f"{rows[at][-1]} a red ball<|im_end|>"]])
        assert inputs.input_ids[0].tolist() == ids.tolist()
        labels = torch.where(target, ids, -100)[None]
        with torch.no_grad():
            sums += float(theirs(**inputs, labels=labels).loss) * int(target.sum())
    with torch.no_grad():
        assert float(ours.losses(batch)["next_token"]) == pytest.approx(
            sums / int(batch.stream.target_T.sum()), rel=1e-4
        )


@pytest.mark.parametrize("tied", [False, True])
def test_what_we_write_transformers_reads(tied: bool, tmp_path: Path) -> None:
    theirs = peer(tmp_path / "theirs", tie_word_embeddings=tied)
    ours = loaded(tmp_path / "theirs")
    assert (ours.language.head is None) == tied
    save(ours, tmp_path / "ours")
    again = transformers.IdeficsForVisionText2Text.from_pretrained(tmp_path / "ours")
    rows = rows_of(generating.odd_photos(tmp_path / "photos"))
    inputs, made = (asked(processor(tmp_path / name), rows) for name in ("theirs", "ours"))
    assert all(torch.equal(made[key], inputs[key]) for key in inputs)
    assert torch.allclose(exact(again, made), exact(theirs, inputs), atol=1e-6)
    twice = loaded(tmp_path / "ours")
    assert twice.config == ours.config
    assert twice.processor.layout == ours.processor.layout
    for name, tensor in ours.state_dict().items():
        assert torch.equal(twice.state_dict()[name], tensor), name


def test_the_published_settings_of_pictures_are_few(tmp_path: Path) -> None:
    """The first files name neither a filter nor a `size`; theirs fills them in."""
    peer(tmp_path / "theirs")
    whole = loaded(tmp_path / "theirs").processor.layout
    for name in ("processor_config.json", "preprocessor_config.json"):
        (tmp_path / "theirs" / name).unlink(missing_ok=True)
    means = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    entries = {"image_num_channels": 3, "image_size": SIZE, **means}
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(json.dumps(entries))
    assert loaded(tmp_path / "theirs").processor.layout == whole


def test_a_chat_model_without_a_template_is_asked_as_its_card_says(tmp_path: Path) -> None:
    """As the prompts on the card of idefics-9b-instruct."""
    peer(tmp_path / "theirs", extra=(*MARKS, "<end_of_utterance>"), additional=3)
    ours, proc = loaded(tmp_path / "theirs"), processor(tmp_path / "theirs")
    first, second = generating.odd_photos(tmp_path / "photos")[:2]
    known = asked(
        proc,
        [
            [
                "User: What is in this image?",
                first,
                "<end_of_utterance>",
                "\nAssistant: Two dogs.<end_of_utterance>",
                "\nUser:",
                second,
                "And who is that?<end_of_utterance>",
                "\nAssistant:",
            ]
        ],
    )
    sample = Sample(
        "a",
        (
            Text("What is in this image?", role="user"),
            Image(first),
            Text("", role="user"),
            Text("Two dogs.", role="assistant"),
            Image(second),
            Text("And who is that?", role="user"),
        ),
    )
    assert ours.processor.tokens(sample, answer=True)[0] == known.input_ids[0].tolist()
    taught = replace(sample, parts=(*sample.parts, Text("A man.", role="assistant", target=True)))
    ids, targets = ours.processor.tokens(taught)
    said = [one for one, target in zip(ids, targets, strict=True) if target]
    assert said[-1] == ours.processor.backend.token_to_id("<end_of_utterance>")
    assert ours.processor.decode(said) == "A man."


def test_what_transformers_lacks_or_we_lack_is_refused(tmp_path: Path) -> None:
    peer(tmp_path / "theirs")
    ours = loaded(tmp_path / "theirs")
    assert isinstance(ours.processor.layout, Marked)
    plain = replace(ours.processor.settings, layout=replace(ours.processor.layout, around=""))
    bare = Flamingo(ours.config, ChatProcessor(ours.processor.backend, plain))
    with pytest.raises(CheckpointError, match="writes a picture as <fake_token_around_image><image>"):
        save(bare, tmp_path / "ours")
    wide = replace(ours.config, cross=replace(ours.config.cross, mlp_width=96))
    with pytest.raises(CheckpointError, match="looks through blocks of the shape of its Llama's"):
        save(Flamingo(wide, ours.processor), tmp_path / "ours")
    settings = json.loads((tmp_path / "theirs" / "config.json").read_text())
    for change, message in (
        ({"use_resampler": False}, "use_resampler is false"),
        ({"cross_layer_interval": 3}, "4 layers cannot be parted by 3"),
        ({"dropout": 0.1}, "dropout"),
    ):
        (tmp_path / "theirs" / "config.json").write_text(json.dumps(settings | change))
        with pytest.raises(CheckpointError, match=message):
            chiasm.load(tmp_path / "theirs")
