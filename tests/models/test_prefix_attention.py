"""A prefix that is read with attention both ways, against transformers' PaliGemma on one tiny random configuration.

Gemma is Llama with other constants, which are folded into the weights: its norms scale by one more than they say, its
embeddings are scaled by the root of the width. The image tower and the projector are the peer's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from chiasm.data.batch import Images
from chiasm.data.chat_processor import ChatProcessor, ChatSettings
from chiasm.data.infilling import Infilling
from chiasm.data.layouts.fixed import Fixed
from chiasm.data.sample import Sample, Text
from chiasm.data.tokenizer import learn_tokenizer
from chiasm.data.transforms import ImageTransform
from chiasm.errors import CheckpointError, RecipeError
from chiasm.models.generative import SharedPrefix, VisionLanguageModel
from chiasm.models.model import Model, ModelConfig
from chiasm.models.needed_layout import NeededLayout
from chiasm.nn.decoders import llama
from chiasm.weights.mapping import take_tensors
from chiasm.weights.transformers import save
from chiasm.weights.transformers._language import decoder_rules
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.models.generative_models import TEXTS, noise, small_language

WIDTH, CONTEXT = 32, 96


@dataclass(frozen=True)
class Config(ModelConfig):
    language: llama.Config

    @classmethod
    def model(cls) -> type[Model]:
        return PaliGemma


class PaliGemma(VisionLanguageModel):
    """The peer's image tower and projector before our decoder."""

    def __init__(self, config: Config, processor: ChatProcessor) -> None:
        super().__init__(config, processor)
        self.language = config.language.build()
        self.peer: Any = None

    @property
    def needed_layout(self) -> NeededLayout:
        return NeededLayout(Fixed, {"image_tokens": 4})

    def image_features(self, images: Images) -> Tensor:
        features: Tensor = self.peer.get_image_features(images.pixels).pooler_output.flatten(0, 1)
        return features


def processor(attention: Any = "prefix") -> ChatProcessor:
    backend = learn_tokenizer(TEXTS, 300)
    layout = Fixed(4, ImageTransform(size=32))
    backend.add_special_tokens([layout.image_token])
    return ChatProcessor(backend, ChatSettings(CONTEXT, layout, attention=attention))


@cache
def pair() -> tuple[PaliGemma, Any]:
    """Ours and theirs with the same weights."""
    torch.manual_seed(0)
    made = processor()
    text = transformers.GemmaConfig(
        vocab_size=made.vocabulary,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        hidden_act="silu",
        max_position_embeddings=CONTEXT,
        initializer_range=0.4,
    )
    vision = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    peer = transformers.PaliGemmaForConditionalGeneration(
        transformers.PaliGemmaConfig(
            vision_config=vision, text_config=text, image_token_index=made.image_token_ids[0], projection_dim=WIDTH
        )
    ).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    peer.tie_weights()
    config = Config(llama.Config(made.vocabulary, WIDTH, 3, 4, 2, 48, CONTEXT, head_width=8, epsilon=1e-6))
    model = PaliGemma(config, made)
    tensors = {name.removeprefix("model.language_model."): value for name, value in peer.state_dict().items()}
    tensors = {
        name: value for name, value in tensors.items() if name.split(".")[0] in ("embed_tokens", "layers", "norm")
    }
    folded = {name: value + 1 if "norm" in name else value for name, value in tensors.items()}
    folded |= {"embed_tokens.weight": tensors["embed_tokens.weight"] * WIDTH**0.5}
    folded |= {"lm_head.weight": tensors["embed_tokens.weight"]}
    take_tensors(model.language, decoder_rules("", "", config.language, "lm_head.weight"), folded, "the peer")
    model.peer = peer
    return model.eval(), peer


SAMPLES = [
    Sample("a", (noise(1, 32), Text("Is there a dog?"), Text(" No", target=True))),
    Sample("b", (noise(2, 32), Text("What colour is the ball?"), Text(" red blue green", target=True))),
    Sample("c", (Text("Answer with yes or no."), noise(3, 32), Text("x"), Text(" Yes", target=True))),
]


def inputs(model: PaliGemma, samples: Sequence[Sample]) -> list[dict[str, Tensor]]:
    """What the peer is given for each sample on its own."""
    found = []
    for sample in samples:
        ids, targets = model.processor.tokens(sample)
        kind = [0] * targets.index(True)
        kind += [1] * (len(ids) - len(kind))
        images = model.processor([sample]).images
        assert images is not None
        labels = [token if target else -100 for token, target in zip(ids, targets, strict=True)]
        found.append(
            {
                "input_ids": torch.tensor([ids]),
                "pixel_values": images.pixels,
                "token_type_ids": torch.tensor([kind]),
                "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
                "labels": torch.tensor([labels]),
            }
        )
    return found


@torch.no_grad()
def test_states_losses_and_likelihoods_are_those_of_paligemma() -> None:
    model, peer = pair()
    batch = model.processor(SAMPLES)
    h_TD, targets_T = model._before_targets(batch)
    logits = model.language.logits(h_TD)
    expected, negative, each = [], [], []
    for given in inputs(model, SAMPLES):
        out = peer(**given)
        learned = given["labels"][0] != -100
        expected.append(out.logits[0, :-1][learned[1:]])
        negative.append(out.loss * learned.sum())
        each.append(-negative[-1])
    torch.testing.assert_close(logits, torch.cat(expected), atol=2e-4, rtol=1e-4)
    mean = sum(negative) / len(targets_T)
    torch.testing.assert_close(model.losses(batch)["next_token"], mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.log_likelihood(SAMPLES), torch.stack(each), atol=1e-3, rtol=1e-4)
    model.processor.settings = replace(model.processor.settings, attention="causal")
    try:
        wrong = model.losses(model.processor(SAMPLES))["next_token"]
    finally:
        model.processor.settings = replace(model.processor.settings, attention="prefix")
    assert (wrong - mean).abs() > 1e-2, "a causal mask would not do"


@torch.no_grad()
def test_answers_that_share_an_image_are_likely_as_in_paligemma() -> None:
    model, peer = pair()
    asked = SAMPLES[0].parts[:2]
    samples = [Sample("a", (*asked, Text(text, target=True))) for text in (" No", " Yes", " red blue")]
    expected = [-peer(**given).loss * (given["labels"] != -100).sum() for given in inputs(model, samples)]
    torch.testing.assert_close(model.log_likelihood(samples), torch.stack(expected), atol=1e-3, rtol=1e-4)


def prompts() -> list[Sample]:
    return [replace(sample, parts=sample.parts[:-1]) for sample in SAMPLES]


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_of_paligemma(beams: int) -> None:
    model, peer = pair()
    answers = [sample.texts[-1].text for sample in model.generate(prompts(), max_tokens=12, beams=beams)]
    expected = []
    for sample in prompts():
        ids, _ = model.processor.tokens(sample, answer=True)
        images = model.processor.prompts([sample]).images
        assert images is not None
        tokens = peer.generate(
            input_ids=torch.tensor([ids]),
            pixel_values=images.pixels,
            token_type_ids=torch.zeros(1, len(ids), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
            num_beams=beams,
            eos_token_id=model.processor.end_ids[0],
            pad_token_id=model.processor.end_ids[0],
        )[0, len(ids) :].tolist()
        expected.append(model.processor.decode(tokens))
    assert answers == expected
    assert len({*answers}) > 1, "a model that answers alike to all proves nothing"


def test_questions_on_one_image_are_answered_as_one_by_one() -> None:
    """A prefix sees all of its question, so nothing of it is shared; the answers are right all the same."""
    model, _ = pair()
    questions = tuple((Text(text),) for text in ("Is there a dog?", "What colour is the ball?", "Why?"))
    group = SharedPrefix(Sample("a", (noise(1, 32),)), questions, (8, 3, 8))
    alone = [
        model.generate([sample], max_tokens=limit)[0].texts[-1].text
        for sample, limit in zip(group.samples, group.limits, strict=True)
    ]
    assert model.replies([group]) == [alone]
    assert len({*alone}) > 1
    assert model.answers(group.begun, questions, max_tokens=8)[0] == alone[0]


@torch.no_grad()
def test_yes_over_no_reads_each_question_whole() -> None:
    model, peer = pair()
    found = model.yes_over_no(noise(1, 32), ["a dog", "a red ball"])
    for text, difference in zip(["a dog", "a red ball"], found, strict=True):
        question = f'Does this figure show "{text}"? Please answer yes or no.'
        likely = []
        for word in ("Yes", "No"):
            prompt = Sample("x", (noise(1, 32), Text(question)))
            ids, answer = model.processor.tokens(prompt, answer=True)[0], model.processor.ids(word)
            images = model.processor.prompts([prompt]).images
            assert images is not None
            logits = peer(
                input_ids=torch.tensor([ids + answer]),
                pixel_values=images.pixels,
                token_type_ids=torch.tensor([[0] * len(ids) + [1] * len(answer)]),
                attention_mask=torch.ones(1, len(ids + answer), dtype=torch.long),
            ).logits[0, len(ids) - 1 : -1]
            likely.append(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())
        torch.testing.assert_close(difference, likely[0] - likely[1], atol=1e-3, rtol=1e-4)


def test_a_prompt_that_is_answered_may_hold_earlier_answers() -> None:
    """All of it is the prefix then, whatever was learned of it."""
    chat = Sample("a", (Text("Is there a dog?", "user"), Text("No", "assistant", target=True), Text("Why?", "user")))
    stream = processor().prompts([chat]).stream
    assert stream is not None
    assert stream.blocks_T is not None
    assert stream.target_T.any()
    assert (stream.blocks_T == 0).all()
    assert processor("causal").prompts([chat]).stream.blocks_T is None  # type: ignore[union-attr]  # it has a stream


def test_the_pieces_of_a_batch_keep_their_prefixes() -> None:
    made = processor()
    whole = made(SAMPLES)
    for at, part in enumerate(whole.split(3)):
        assert part.stream is not None
        alone = made(SAMPLES[at : at + 1]).stream
        assert alone is not None
        assert torch.equal(part.stream.blocks_T, alone.blocks_T)  # type: ignore[arg-type]  # both have some


def test_infilling_and_a_prefix_are_one_too_many() -> None:
    backend = learn_tokenizer(TEXTS, 300)
    backend.add_special_tokens([*Infilling().masks, Infilling().end])
    with pytest.raises(RecipeError, match="leave out one of both"):
        ChatProcessor(backend, ChatSettings(CONTEXT, attention="prefix", infilling=Infilling()))


def test_a_prefix_is_not_exported_to_a_family_that_is_causal_there(tmp_path: Path) -> None:
    model = small_language()
    model.processor.settings = replace(model.processor.settings, attention="prefix")
    with pytest.raises(CheckpointError, match=r"processor\.attention is prefix, but a Language is causal"):
        save(model, tmp_path / "exported")
    assert not [*tmp_path.iterdir()]
