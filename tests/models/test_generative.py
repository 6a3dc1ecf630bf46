"""What many questions share is computed once, and the answers are those of one question at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from chiasm.data.batch import Images
from chiasm.data.image import Image
from chiasm.data.sample import Sample, Text
from chiasm.errors import DataError, RecipeError
from chiasm.models.generative import GenerativeModel, SharedPrefix
from chiasm.models.llava import LLaVA
from chiasm.nn.image_towers.vit import ViT
from tests.models.generative_models import noise, small_language, small_llava

QUESTIONS = ("Is there a dog?", "Is there a red ball in the picture?", "What colour is it? Say one word.", "Why?")


def _asked(words: str) -> tuple[Text, ...]:
    return (Text(words, role="user"),)


def _alone(model: GenerativeModel, group: SharedPrefix) -> list[str]:
    found = []
    for sample, limit in zip(group.samples, group.limits, strict=True):
        last = model.generate([sample], max_tokens=limit)[0].parts[-1]
        assert isinstance(last, Text)
        found.append(last.text)
    return found


def test_questions_that_share_a_beginning_are_answered_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_llava()
    groups = [
        SharedPrefix(Sample("a", (noise(1),)), tuple(_asked(one) for one in QUESTIONS), (12, 3, 12, 12)),
        SharedPrefix(Sample("b", (Text("Be brief.", role="system"), noise(2))), (_asked(QUESTIONS[1]),), (12,)),
        SharedPrefix(Sample("c", (noise(3), noise(4))), tuple(_asked(one) for one in QUESTIONS[:2]), (5, 12)),
    ]
    alone = [_alone(model, group) for group in groups]
    assert len({one for several in alone for one in several}) > 3, "a model that says one thing to all proves nothing"
    seen: list[int] = []
    whole = ViT.hidden_states

    def counted(self: ViT, images: Any, *rest: Any) -> Any:
        seen.append(len(images))
        return whole(self, images, *rest)

    monkeypatch.setattr(ViT, "hidden_states", counted)
    assert model.replies(groups) == alone
    assert sum(seen) == 4, "each picture goes through the tower once"
    assert model.answers(groups[0].begun, groups[0].questions, max_tokens=12)[0] == alone[0][0]


def test_words_alone_share_too() -> None:
    model = small_language()
    told = Sample("a", (Text("A dog and a ball.", role="system"),))
    group = SharedPrefix(told, tuple(_asked(one) for one in QUESTIONS), (8,) * 4)
    apart = SharedPrefix(
        Sample("b", ()), ((Text("yes"),), (Text("Why?"),)), (4, 4)
    )  # nothing in common, not even a mark
    assert model.replies([group, apart]) == [_alone(model, group), _alone(model, apart)]
    assert model.replies([apart]) == [_alone(model, apart)]


def test_pictures_behind_the_question_are_refused() -> None:
    begun, questions = Sample("a", (Text("Look:"),)), ((noise(1), Text("yes")), (noise(2), Text("no")))
    with pytest.raises(DataError, match="give them in what the questions share"):
        small_llava().answers(begun, questions)  # type: ignore[arg-type]  # the mistake itself


@pytest.mark.parametrize("more", [{"max_tokens": 0}, {"beams": 0}, {"stop": [""]}])
def test_what_leaves_no_room_for_an_answer_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="must be at least 1, and no text of stop may be empty"):
        small_language().generate([Sample("a", (Text("hi"),))], **more)
    assert small_language().generate([], beams=2) == []


def test_a_stop_text_ends_an_answer_wherever_its_tokens_part(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sample = small_language(), Sample("a", _asked(QUESTIONS[0]))
    words = model.processor.ids("is it a red ball? yes, it is: \u00e9 and \u2603.")
    whole, script, steps = model.processor.decode(words), [*words, model.processor.end_ids[0]], []

    def scripted(h_TD: torch.Tensor) -> torch.Tensor:
        steps.append(len(h_TD))
        return torch.nn.functional.one_hot(torch.tensor([script[len(steps) - 1]]), model.language.vocabulary).float()

    monkeypatch.setattr(model.language, "logits", scripted)

    def said(stop: list[str]) -> str:
        steps.clear()
        return model.generate([sample], max_tokens=99, stop=stop)[0].texts[-1].text

    def spoken(stop: list[str]) -> str:
        steps.clear()
        pieces = list(model.stream(sample, max_tokens=99, stop=stop))
        assert not any("\ufffd" in piece for piece in pieces), "half a character is none"
        return "".join(pieces)

    assert said([]) == spoken([]) == whole
    assert len(script) < len(whole), "tokens hold several characters"
    for stop in sorted({whole[at : at + size] for size in (1, 2, 5) for at in range(len(whole) - size + 1)}):
        assert said([stop]) == whole[: whole.index(stop)]
        needed = next(n for n in range(len(script)) if stop in model.processor.decode(script[:n]))
        assert len(steps) == needed, "nothing is computed behind it"
        assert spoken([stop]) == whole[: whole.index(stop)]
        assert said([whole[-1], stop]) == whole[: whole.index(stop)], "the first of them in the text counts"
        assert spoken([f"{stop}\0"]) == whole, "one that begins alike but does not come holds nothing back for good"


def test_slots_that_no_features_fill_are_an_error() -> None:
    model = small_llava()
    two, one = (model.processor.prompts([Sample("a", pictures)]) for pictures in ((noise(1), noise(2)), (noise(1),)))
    with pytest.raises(DataError, match="stream of a has 32 image tokens, but its images made 16 features"):
        model.embedded(replace(two, images=one.images))
    with pytest.raises(DataError, match="stream of a has 16 image tokens, but its images made 32 features"):
        model.embedded(replace(one, images=two.images))
    with pytest.raises(DataError, match="has 16 image tokens, but its images made 0 features"):
        model.embedded(replace(one, images=None))


def test_the_length_of_a_prompt_is_that_of_its_stream() -> None:
    model = small_llava()
    sample = Sample("a", (noise(1), Text(QUESTIONS[0], role="user")))
    stream = model.processor.prompts([sample]).stream
    assert stream is not None
    assert model.prompt_length(sample) == len(stream.ids_T)
    long = replace(sample, parts=(noise(1), Text("Why? " * 600, role="user")))
    with pytest.raises(DataError, match="but the context is"):
        model.prompt_length(long)


def test_likelihood_is_that_of_all_tokens_of_the_text_whatever_stands_beside_it() -> None:
    model, image = small_llava(), noise(1)
    texts = ["red and blue", "red and green", "a red ball", "red"]
    together = model.score([image], texts)[0]
    for text, found in zip(texts, together, strict=True):
        sample = Sample("x", (image, Text(text, target=True)))
        tokens = sum(model.processor.tokens(sample)[1])
        expected = model.log_likelihood([sample])[0] / tokens
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.score([image], [text])[0, 0], expected, atol=1e-4, rtol=1e-4)
    grey = together - model.score([image], texts, by="gain")[0]
    torch.testing.assert_close(grey, model.score([noise(2)], texts)[0] - model.score([noise(2)], texts, by="gain")[0])
    assert not torch.allclose(grey, together)


def test_answers_to_one_question_are_read_behind_one_reading_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = small_llava(), (noise(1), noise(2))
    seen: list[int] = []
    asked = Text(QUESTIONS[0], role="user")
    said = [Text(one, role="assistant", target=True) for one in ("Yes", "No", "red and blue")]
    samples = [Sample(f"{image}", (images[image], asked, one)) for one in said for image in (0, 1)]
    samples.append(Sample("two", (images[0], asked, said[0], asked, said[1])))  # words between what is learned
    samples.append(Sample("other", (images[0], Text("Why?", role="user"), said[0])))
    alone = torch.cat([model.log_likelihood([sample]) for sample in samples])
    features = model.image_features

    def counted(images: Images) -> torch.Tensor:
        seen.append(len(images))
        return features(images)

    monkeypatch.setattr(model, "image_features", counted)
    torch.testing.assert_close(model.log_likelihood(samples), alone, atol=1e-3, rtol=1e-4)
    assert seen == [1, 1, 2]
    assert model.log_likelihood([]).shape == (0,)


def test_yes_is_the_difference_of_the_words_behind_the_question() -> None:
    model, image = small_llava(), noise(1)
    texts = ["red and blue", "a dog"]
    found = model.score([image], texts, by="yes")[0]
    for text, value in zip(texts, found, strict=True):
        question = Text(f'Does this figure show "{text}"? Please answer yes or no.', role="user")
        said = [Sample("x", (image, question, Text(one, role="assistant", target=True))) for one in ("Yes", "No")]
        # The end of the turn is learned too; only the words themselves are compared.
        ids = [model.processor.ids(one) for one in ("Yes", "No")]
        prompt = model.processor.tokens(replace(said[0], parts=said[0].parts[:2]), answer=True)[0]
        batch = model.processor.prompts([replace(said[0], parts=said[0].parts[:2])])
        with torch.inference_mode():
            logs = []
            for word in ids:
                stream = batch.stream
                assert stream is not None
                whole = replace(
                    batch,
                    stream=replace(
                        stream,
                        ids_T=torch.tensor(prompt + word),
                        lengths_B=torch.tensor([len(prompt) + len(word)]),
                        target_T=torch.tensor([False] * len(prompt) + [True] * len(word)),
                        image_mask_T=torch.tensor(
                            [one in model.processor.image_token_ids for one in prompt] + [False] * len(word)
                        ),
                    ),
                )
                logs.append(-model.losses(whole)["next_token"] * len(word))
        torch.testing.assert_close(value, logs[0] - logs[1], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(model.score([image], texts[:1], by="yes")[0, 0], found[0], atol=1e-3, rtol=1e-3)


def test_many_answers_are_read_in_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = small_llava(), noise(1)
    texts = ["red and blue", "red", "a dog", "green left of white"]
    whole = model.score([image], texts)
    monkeypatch.setattr("chiasm.generation.likelihood._AT_ONCE", 8)
    torch.testing.assert_close(model.score([image], texts), whole, atol=1e-5, rtol=1e-5)
    assert model.score([image], []).shape == (1, 0)


def test_what_texts_gain_is_asked_without_a_picture_once_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model, texts = small_llava(), ["red and blue", "a red ball"]
    images = [noise(1), noise(2), noise(3, 48), noise(4)]
    alone = torch.cat([model.score([image], texts, by="gain") for image in images])
    asked: list[tuple[int, int]] = []
    likelihoods = LLaVA.caption_likelihoods

    def counted(self: LLaVA, image: Image, texts: Sequence[str]) -> torch.Tensor:
        if (image.pixels_uint8() == 128).all():
            asked.append(image.size)
        return likelihoods(self, image, texts)

    monkeypatch.setattr(LLaVA, "caption_likelihoods", counted)
    torch.testing.assert_close(model.score(images, texts, by="gain"), alone)
    assert sorted(asked) == [(48, 48), (64, 64)]
    with model.unchanged():  # as an evaluation asks: picture by picture
        torch.testing.assert_close(torch.cat([model.score([one], texts, by="gain") for one in images]), alone)
    assert len(asked) == 4
    model.score(images[:1], texts, by="gain")  # weights may have changed since
    assert len(asked) == 5
