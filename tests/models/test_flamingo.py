"""Flamingo: what every speaker can, told of pictures beside the stream; and what its gates promise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.data.image import Image
from chiasm.data.layouts.fixed import Fixed
from chiasm.data.sample import Sample, Text
from chiasm.errors import DataError, RecipeError
from chiasm.models import flamingo
from chiasm.models.flamingo import Flamingo
from chiasm.models.generative import SharedPrefix
from chiasm.nn import cross
from chiasm.nn.decoder import Packed
from chiasm.nn.image_towers.vit import ViT
from chiasm.training.optimiser import freeze
from chiasm.training.settings import PartSettings, Training
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.models.generative_models import TINY_FLAMINGO as TINY
from tests.models.generative_models import noise
from tests.models.generative_models import small_flamingo as small

QUESTIONS = ("Is there a dog?", "Is there a red ball in the picture?", "What colour is it? Say one word.", "Why?")


def shots(seeds: list[int], *more: Text) -> Sample:
    """A few pictures with their answers, then one without."""
    parts: list[Image | Text] = []
    for at, seed in enumerate(seeds):
        parts += [noise(seed, 32), Text("Output: " if at == len(seeds) - 1 else f"Output: red {at}\n")]
    return Sample("a", (*parts, *more))


def states(model: Flamingo, samples: list[Sample]) -> list[torch.Tensor]:
    """What the decoder makes of every token of each sample, in float64."""
    batch = model.processor.prompts(samples)
    if batch.images is not None:
        batch = replace(batch, images=batch.images.with_pixels(batch.images.pixels.double()))
    with torch.no_grad():
        model.double()
        prompt = model.embedded(batch)
        found = model.language(prompt.x_TD, prompt.positions, Packed(prompt.lengths, prompt.visible))
        model.float()
    return list(found.split(prompt.lengths))


def scores_behind(model: Flamingo, sample: Sample, tokens: list[int]) -> torch.Tensor:
    """(tokens + 1, V) log p of what comes after the prompt and after each further token, all read at once."""
    with torch.no_grad():
        prompt = model.embedded(model.processor.prompts([sample]))
        x_TD = torch.cat([prompt.x_TD, model.language.embed(torch.tensor(tokens, dtype=torch.long))])
        count = len(prompt.x_TD)
        visible = prompt.visible.at([*range(count), *[count - 1] * len(tokens)]) if prompt.visible is not None else None
        h_TD = model.language(x_TD, torch.arange(len(x_TD)), Packed([len(x_TD)], visible))
        return model.language.logits(h_TD[count - 1 :]).log_softmax(-1)


@given(st.lists(st.sampled_from(["red ", "ball? ", 1, 2, 3]), min_size=1, max_size=6))
@settings(deadline=None, max_examples=15)
def test_with_closed_gates_the_language_model_is_what_it_was(parts: list[Any]) -> None:
    model = small(gate=0.0)
    plain = TINY.language.build().eval()
    plain.load_state_dict(
        {name: one for name, one in model.language.state_dict().items() if not name.startswith("look.")}
    )
    sample = Sample("a", tuple(Text(one) if isinstance(one, str) else noise(one, 32) for one in parts))
    prompt = model.embedded(model.processor.prompts([sample]))
    with torch.no_grad():
        found = model.language(prompt.x_TD, prompt.positions, Packed(prompt.lengths, prompt.visible))
        assert torch.equal(found, plain(prompt.x_TD, prompt.positions, Packed(prompt.lengths)))


def test_gradients_reach_closed_gates_and_through_open_ones_all_else() -> None:
    batch_of = [shots([1, 2], Text("blue", target=True)), Sample("b", (Text("a "), Text("dog", target=True)))]
    closed, open_ = small(gate=0.0).train(), small(gate=0.1).train()
    for model in (closed, open_):
        torch.autograd.backward(model.losses(model.processor(batch_of))["next_token"])
    assert all(look.gate1.grad.any() and look.gate2.grad.any() for look in closed.language.look)
    unreached = {
        name
        for name, one in closed.named_parameters()
        if one.requires_grad and (one.grad is None or not one.grad.any())
    }
    assert unreached == {
        name for name in closed.expected_zero_grad() if dict(closed.named_parameters())[name].requires_grad
    }
    assert {"connector.latents", "vision.position", "language.look.0.attention.q.weight"} < unreached
    assert not open_.expected_zero_grad()
    dead = [
        name
        for name, one in open_.named_parameters()
        if one.requires_grad and (one.grad is None or not one.grad.any()) and not name.endswith("attention.k.bias")
    ]
    assert dead == []


def test_a_picture_changes_what_stands_behind_it_and_nothing_before() -> None:
    model = small()
    sample = Sample("a", (Text("Is there a dog? "), noise(1, 32), Text("red "), noise(2, 32), Text("blue")))
    (known,) = states(model, [sample])
    marks = [
        at
        for at, one in enumerate(model.processor.tokens(sample, answer=True)[0])
        if one in model.processor.image_token_ids
    ]
    for picture, mark in zip((1, 3), marks, strict=True):
        (other,) = states(
            model, [replace(sample, parts=(*sample.parts[:picture], noise(9, 32), *sample.parts[picture + 1 :]))]
        )
        assert torch.equal(other[:mark], known[:mark])
        assert (other[mark:] - known[mark:]).abs().amax(1).min() > 1e-3
    alone, *_ = states(model, [Sample("a", sample.parts[:1])])
    torch.testing.assert_close(alone, known[: len(alone)])


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    model = small()
    rows = [shots([1, 2, 3]), Sample("b", (Text("a dog"),)), shots([4]), Sample("c", (noise(5, 32), noise(6, 32)))]
    for row, found in zip(rows, states(model, rows), strict=True):
        torch.testing.assert_close(found, states(model, [row])[0])


def test_generation_makes_keys_of_pictures_once_and_says_what_rereading_all_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small()
    rows = [shots([1, 2]), Sample("b", (Text("Is there"),)), shots([3]), Sample("c", (noise(4, 32), Text("red")))]
    slow = []
    for row in rows:
        tokens: list[int] = []
        while len(tokens) < 6 and (not tokens or tokens[-1] not in model.processor.end_ids):
            tokens.append(int(scores_behind(model, row, tokens)[-1].argmax()))
        slow.append(model.processor.decode(tokens))
    made: list[int] = []
    whole = cross.CrossAttention._keys_values

    def counted(self: cross.CrossAttention, features_SD: torch.Tensor) -> Any:
        made.append(len(features_SD))
        return whole(self, features_SD)

    monkeypatch.setattr(cross.CrossAttention, "_keys_values", counted)
    found = [one.texts[-1].text for one in model.generate(rows, max_tokens=6)]
    assert found == slow
    assert len(set(found)) > 1
    assert made == [4 * 3] * 2, "four pictures of three latents, once for each of two layers"
    made.clear()
    assert [one.texts[-1].text for one in model.generate(rows, max_tokens=6, beams=3)]
    assert made == [4 * 3] * 2
    assert ["".join(model.stream(row, max_tokens=6)) for row in rows] == found


def test_questions_that_share_pictures_are_answered_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    asked = tuple((Text(one, role="user"),) for one in QUESTIONS)
    groups = [
        SharedPrefix(Sample("a", (noise(1, 32),)), asked, (8, 3, 8, 8)),
        SharedPrefix(Sample("b", (Text("Be brief.", role="system"),)), asked[:2], (8, 8)),
        SharedPrefix(Sample("c", (noise(2, 32), Text("red", role="user"), noise(3, 32))), asked[:2], (8, 8)),
        SharedPrefix(Sample("d", ()), ((Text("yes"),), (Text("Why?"),)), (4, 4)),  # nothing in common
    ]
    alone = [
        [
            model.generate([one], max_tokens=limit)[0].texts[-1].text
            for one, limit in zip(group.samples, group.limits, strict=True)
        ]
        for group in groups
    ]
    assert len({one for several in alone for one in several}) > 3
    seen: list[int] = []
    whole = ViT.hidden_states

    def counted(self: ViT, images: Any, *rest: Any) -> Any:
        seen.append(len(images))
        return whole(self, images, *rest)

    monkeypatch.setattr(ViT, "hidden_states", counted)
    assert model.replies(groups) == alone
    assert sum(seen) == 3, "each picture goes through the tower once"


def test_likelihoods_and_scores_are_those_of_each_text_read_whole() -> None:
    model, image = small(), noise(1, 32)
    texts = ["red and blue", "red and green", "a red ball", "red"]
    found = model.score([image], texts)[0]
    for text, value in zip(texts, found, strict=True):
        sample = Sample("x", (image, Text(text, target=True)))
        tokens = sum(model.processor.tokens(sample)[1])
        batch = model.processor([sample])
        with torch.no_grad():
            loss = model.losses(batch)["next_token"]
        torch.testing.assert_close(value, -loss, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.log_likelihood([sample])[0], -loss * tokens, atol=1e-3, rtol=1e-4)
    gain, grey = (
        model.score([image], texts, by="gain")[0],
        Image(torch.full((32, 32, 3), 128, dtype=torch.uint8).numpy()),
    )
    torch.testing.assert_close(gain, found - model.score([grey], texts)[0], atol=1e-4, rtol=1e-4)
    assert gain.abs().max() > 1e-2
    yes = model.score([image, noise(2, 32)], texts[:2], by="yes")
    assert (yes[0] - yes[1]).abs().max() > 1e-2
    for at, text in enumerate(texts[:2]):
        question = Text(f'Does this figure show "{text}"? Please answer yes or no.', role="user")
        begun = Sample("x", (image, question))
        said = []
        for word in (model.processor.ids("Yes"), model.processor.ids("No")):
            chances = scores_behind(model, begun, word[:-1])
            said.append(chances[torch.arange(len(word)), torch.tensor(word)].sum())
        torch.testing.assert_close(yes[0, at], said[0] - said[1], atol=1e-3, rtol=1e-4)


def test_captions_share_their_picture_and_lose_it_behind_the_token_that_parts_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every caption ends with that token, behind which nothing is read."""
    model, image = small(until="<|endoftext|>"), noise(1, 32)
    texts = ["red and blue", "a red ball", "red<|endoftext|>blue"]
    expected = []
    for text in texts:
        with torch.no_grad():
            expected.append(
                -model.losses(model.processor([Sample("x", (image, Text(text, target=True)))]))["next_token"]
            )
    seen: list[int] = []
    whole = ViT.hidden_states

    def counted(self: ViT, images: Any, *rest: Any) -> Any:
        seen.append(len(images))
        return whole(self, images, *rest)

    monkeypatch.setattr(ViT, "hidden_states", counted)
    torch.testing.assert_close(model.score([image], texts)[0], torch.stack(expected), atol=1e-4, rtol=1e-4)
    assert seen == [1, 1], "once for the captions that see it to their end, once for the one that does not"


def test_examples_in_the_prompt_change_the_answer() -> None:
    """Few-shot: both the pictures and the words of the examples are read, in their order."""
    model = small()
    last = {
        name: states(model, [shots(seeds)])[0][-1]
        for name, seeds in {"ab": [1, 2, 3], "ba": [2, 1, 3], "b": [2, 3]}.items()
    }
    assert (last["ab"] - last["ba"]).abs().max() > 1e-2
    assert (last["ab"] - last["b"]).abs().max() > 1e-2


def test_behind_a_token_that_parts_texts_no_picture_is_seen() -> None:
    model = small(until="<|endoftext|>")
    sample, other = (Sample("a", (noise(seed, 32), Text("red<|endoftext|>blue"))) for seed in (1, 2))
    prompt = model.embedded(model.processor.prompts([sample]))
    assert prompt.visible is not None
    end = prompt.ids[0].index(model.processor.end_ids[0])
    assert [bool(one) for one in prompt.visible.runs_T2[:, 1]] == [at <= end for at in range(prompt.lengths[0])]
    with pytest.raises(DataError, match="ask them one by one"):
        model.answers(Sample("a", (noise(1, 32),)), [(Text("red<|endoftext|>"),), (Text("blue<|endoftext|>"),)])
    assert not torch.equal(*(states(model, [one])[0] for one in (sample, other)))


def test_marks_and_pictures_that_differ_and_other_layouts_are_errors() -> None:
    model = small()
    batch = model.processor.prompts([shots([1])])
    with pytest.raises(DataError, match="marks 1 pictures, but has 0"):
        model.embedded(replace(batch, images=None))
    model.processor.layout = Fixed(3)
    with pytest.raises(RecipeError, match=r"set processor\.layout to marked"):
        model.check()


def test_the_language_model_can_be_frozen_but_for_how_it_looks() -> None:
    model = small()
    freeze(
        model,
        Training(
            steps=1,
            parts={
                "vision": PartSettings(frozen=True),
                "language": PartSettings(frozen=True),
                "language.look": PartSettings(),
            },
        ),
    )
    learned = {name for name, one in model.named_parameters() if one.requires_grad}
    assert learned == {
        name for name, _ in model.named_parameters() if name.startswith(("connector.", "language.look."))
    }
    model.train()
    assert not any(block.training for block in model.language.blocks.children())
    assert all(look.training for look in model._looks)


# The `config.json` of HuggingFaceM4's idefics-9b and -80b, as far as it decides shapes.
IDEFICS: dict[str, dict[str, Any]] = {
    "idefics-9b": {
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "idefics-80b": {
        "hidden_size": 8192,
        "intermediate_size": 22_016,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    },
}


@pytest.mark.parametrize(("size", "billions"), [("idefics-9b", 8.9), ("idefics-80b", 80.0)])
def test_idefics_has_the_size_of_the_same_model_in_transformers(size: str, billions: float) -> None:
    config = transformers.IdeficsConfig(
        **IDEFICS[size],
        additional_vocab_size=2,
        cross_layer_interval=4,
        qk_layer_norms=True,
        use_resampler=True,
        vision_config={"embed_dim": 1280},
        perceiver_config={"qk_layer_norms_perceiver": True},
    )
    with torch.device("meta"):
        theirs = sum(one.numel() for one in transformers.IdeficsForVisionText2Text(config).parameters())
    assert flamingo.SIZES[size].parameters() == theirs
    assert round(theirs / 1e9, 1) == billions


def test_no_size_goes_unchecked() -> None:
    assert IDEFICS.keys() == flamingo.SIZES.keys() - {"small"}
