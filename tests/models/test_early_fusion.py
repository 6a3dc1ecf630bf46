"""Images as tokens of a stream: read as by transformers' Chameleon, learned, written, and moved by infilling."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from chiasm.data.batch import Images
from chiasm.data.chat_processor import ChatProcessor, ChatSettings
from chiasm.data.image import Image
from chiasm.data.infilling import Infilling
from chiasm.data.layouts.codes import Codes
from chiasm.data.sample import Sample, Text
from chiasm.data.tokenizer import learn_tokenizer
from chiasm.data.transforms import ImageTransform
from chiasm.errors import CapabilityError, DataError, RecipeError
from chiasm.generation.choosing import Sampling
from chiasm.models.early_fusion import EarlyFusionModel
from chiasm.models.generative import SharedPrefix
from chiasm.models.model import Model, ModelConfig
from chiasm.nn.decoder import Packed
from chiasm.nn.decoders import llama
from chiasm.weights.mapping import take_tensors
from chiasm.weights.transformers._language import decoder_rules
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.models.generative_models import CHAT, TEXTS, noise

CODES, WIDTH, CONTEXT = 16, 32, 128


@dataclass(frozen=True)
class Config(ModelConfig):
    language: llama.Config
    tokenizer: Callable[[], nn.Module]

    @classmethod
    def model(cls) -> type[Model]:
        return Fused


class Fused(EarlyFusionModel):
    def __init__(self, config: Config, processor: ChatProcessor) -> None:
        super().__init__(config, processor)
        self.language, self.image_tokenizer = config.language.build(), config.tokenizer().requires_grad_(False)


def processor(layout: Codes, template: str = "", infilling: Infilling | None = None) -> ChatProcessor:
    backend = learn_tokenizer([*TEXTS, "draw it: here [user] [assistant]"], 300)
    backend.add_special_tokens([layout.image_token, *layout.marks])
    if infilling is not None:
        backend.add_special_tokens([*infilling.masks, infilling.end])
    return ChatProcessor(backend, ChatSettings(CONTEXT, layout, infilling=infilling), template)


# --- as Chameleon


class PeerVQ(nn.Module):
    """The peer's own VQ model; it has no decoder."""

    codes = CODES

    def __init__(self, vq: nn.Module) -> None:
        super().__init__()
        self.vq: Any = vq

    def encode(self, images: Images) -> Tensor:
        tokens: Tensor = self.vq.encode(images.pixels, return_dict=True).image_tokens
        return tokens.view(len(images), -1)

    def decode(self, codes_NP: Tensor) -> list[Image]:
        raise CapabilityError(f"no decoder for {len(codes_NP)} images")


CHAMELEON = Codes(
    CODES, 16, ImageTransform(size=8), begin="<racm3:break>", end="<eoss>", name="IMGIMG{}Z", digits="ABCDEFGHIJ"
)


@cache
def chameleon() -> tuple[Fused, Any]:
    """Ours and theirs with the same weights; norms of queries and keys, which only Chameleon has, are the peer's."""
    torch.manual_seed(0)
    made = processor(CHAMELEON)
    peer: Any = transformers.ChameleonForConditionalGeneration(
        transformers.ChameleonConfig(
            vocab_size=made.vocabulary,
            hidden_size=WIDTH,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            initializer_range=0.4,
            vq_config={
                "num_embeddings": CODES,
                "embed_dim": 8,
                "latent_channels": 8,
                "base_channels": 32,
                "channel_multiplier": [1, 1],
                "num_res_blocks": 1,
                "resolution": 8,
            },
            vocabulary_map=made.backend.get_vocab(),
        )
    ).eval()
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if "vqmodel" not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
        vq, seen = peer.model.vqmodel, CHAMELEON.images([noise(9, 8)]).pixels
        vq.quantize.embedding.weight.copy_(vq.quant_conv(vq.encoder(seen))[0].flatten(1).T)  # or one code is all
    config = Config(
        llama.Config(made.vocabulary, WIDTH, 2, 4, 2, 48, CONTEXT), lambda: PeerVQ(deepcopy(peer.model.vqmodel))
    )
    model = Fused(config, made)
    tensors = {
        name: value for name, value in peer.state_dict().items() if "vqmodel" not in name and "q_norm" not in name
    }
    tensors = {name: value for name, value in tensors.items() if "k_norm" not in name}
    take_tensors(model.language, decoder_rules("", "model.", config.language, "lm_head.weight"), tensors, "the peer")
    for block, layer in zip(model.language.blocks, peer.model.layers, strict=True):
        attention: Any = block.attention
        attention.q_norm, attention.k_norm = deepcopy(layer.self_attn.q_norm), deepcopy(layer.self_attn.k_norm)
    model.check()
    return model.eval(), peer


ASKED = [
    Sample("a", (Text("Look: "), noise(1, 8), Text("Is there a dog?"), Text(" No", target=True))),
    Sample("b", (noise(2, 8), noise(3, 8), Text("Is it red?"), Text(" red blue", target=True))),
]


@torch.no_grad()
def test_images_are_read_as_by_chameleon() -> None:
    model, peer = chameleon()
    batch = model.processor(ASKED)
    prompt = model.embedded(batch)
    found = model.language.logits(model.language(prompt.x_TD, prompt.positions, Packed(prompt.lengths)))
    expected, used = [], set()
    for sample in ASKED:
        alone = model.processor([sample])
        assert alone.stream is not None
        assert alone.images is not None
        out = peer(input_ids=alone.stream.ids_T[None], pixel_values=alone.images.pixels)
        expected.append(out.logits[0])
        used |= {*peer.get_image_tokens(alone.images.pixels).flatten().tolist()}
    theirs = torch.cat(expected)
    words = theirs > torch.finfo(theirs.dtype).min  # it never writes images
    assert (~words[0]).sum() == CODES
    torch.testing.assert_close(found[words], theirs[words], atol=2e-4, rtol=1e-4)
    assert len(used) > 3, "images that are all alike prove nothing"
    assert used <= {*model.code_ids.ids}


@torch.no_grad()
def test_images_are_learned_as_the_codes_of_chameleon() -> None:
    """transformers gives every code a logit of minus infinity, so its states are read before that."""
    model, peer = chameleon()
    sample = Sample("a", (Text("Draw it: "), noise(1, 8).placed("", target=True), Text("done", target=True)))
    batch = model.processor([sample])
    assert batch.stream is not None
    assert batch.images is not None
    codes = peer.get_image_tokens(batch.images.pixels)[0]
    ids = batch.stream.ids_T.masked_scatter(batch.stream.image_mask_T, codes.long())
    h_TD = peer.model(input_ids=ids[None]).last_hidden_state[0]
    each = (h_TD[:-1] @ peer.lm_head.weight.T).log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    learned = batch.stream.target_T[1:]
    assert learned.sum() == 1 + 16 + 1 + len(model.processor.ids("done")) + 1  # marks around the codes, and the end
    torch.testing.assert_close(model.losses(batch)["next_token"], -each[learned].mean(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.log_likelihood([sample])[0], each[learned].sum(), atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_answers_are_those_of_chameleon() -> None:
    model, peer = chameleon()
    prompts = [replace(sample, parts=sample.parts[:-1]) for sample in ASKED]
    expected = []
    for sample in prompts:
        batch = model.processor.prompts([sample])
        assert batch.stream is not None
        assert batch.images is not None
        suppressed = [model.code_ids.begin, model.code_ids.end, *model.processor.image_token_ids]
        tokens = peer.generate(
            input_ids=batch.stream.ids_T[None],
            pixel_values=batch.images.pixels,
            max_new_tokens=10,
            do_sample=False,
            suppress_tokens=suppressed,
            eos_token_id=model.processor.end_ids[0],
            pad_token_id=model.processor.end_ids[0],
        )[0, len(batch.stream.ids_T) :].tolist()
        expected.append(model.processor.decode(tokens))
    groups = [
        SharedPrefix(replace(sample, parts=sample.parts[:-1]), ((sample.texts[-1],),), (10,)) for sample in prompts
    ]
    assert [answer for (answer,) in model.replies(groups)] == expected
    assert ["".join(model.stream(sample, max_tokens=10)) for sample in prompts] == expected
    assert len({*expected}) == 2


# --- writing images

COLOURS = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)], np.uint8)


class Palette(nn.Module):
    """The nearest of eight colours for each quarter of an image."""

    codes = len(COLOURS)

    def encode(self, images: Images) -> Tensor:
        quarters = nn.functional.adaptive_avg_pool2d(images.pixels, 2).flatten(2).transpose(1, 2)
        return torch.cdist(quarters, torch.tensor(COLOURS / 255.0).float()[None]).argmin(-1)

    def decode(self, codes_NP: Tensor) -> list[Image]:
        grids = COLOURS[codes_NP.cpu().numpy()].reshape(-1, 2, 2, 3)
        return [Image(grid.repeat(4, 1).repeat(4, 0)) for grid in grids]


LAYOUT = Codes(len(COLOURS), 4, ImageTransform(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
NAMED = {"red": 4, "green": 2, "blue": 1}


def painted(*codes: int) -> Image:
    return Palette().decode(torch.tensor([codes]))[0]


def drawing(name: str, code: int) -> Sample:
    parts = (
        Text(f"draw it: {name}", "user"),
        Text("here", "assistant", target=True),
        painted(code, code, code, 0).placed("assistant", target=True),
    )
    return Sample(name, parts)


def painter(infilling: Infilling | None = None, template: str = CHAT) -> Fused:
    torch.manual_seed(0)
    made = processor(LAYOUT, template, infilling)
    model = Fused(Config(llama.Config(made.vocabulary, WIDTH, 2, 4, 2, 64, CONTEXT, tied=True), Palette), made)
    model.check()
    return model


def test_a_model_learns_to_answer_with_words_and_a_picture() -> None:
    model = painter()
    samples = [drawing(*both) for both in NAMED.items()]
    batch = model.processor(samples)
    optimiser = torch.optim.AdamW(model.language.parameters(), 1e-2)
    model.train()
    for _ in range(60):
        optimiser.zero_grad()
        loss = model.losses(batch)["next_token"]
        torch.autograd.backward(loss)
        optimiser.step()
    prompts = [Sample(sample.key, sample.parts[:1]) for sample in samples]
    for answered, sample in zip(model.generate(prompts, max_tokens=24), samples, strict=True):
        text, image = answered.parts[1:]
        assert isinstance(text, Text)
        assert isinstance(image, Image)
        assert (text.text, text.role, image.role) == ("here", "assistant", "assistant")
        assert np.array_equal(image.pixels_uint8(), sample.images[0].pixels_uint8())
    names = [*NAMED]
    likely = model.log_likelihood(
        [
            replace(drawing(name, code), parts=(drawing(name, code).parts[0], *samples[at].parts[1:]))
            for name, code in NAMED.items()
            for at in range(len(names))
        ]
    ).view(3, 3)
    assert likely.argmax(1).tolist() == [0, 1, 2], "each picture is the likeliest by its own words"
    short = model.generate(prompts, max_tokens=6)
    assert [type(part) for sample in short for part in sample.parts[1:]] == [Text] * 3, "half an image is none"


def test_whatever_is_drawn_at_random_is_whole() -> None:
    model = painter().eval()
    prompts = [Sample(str(at), (Text("draw it", "user"),)) for at in range(40)]
    found = model.generate(prompts, max_tokens=40, sampling=Sampling(2.0, seed=1))
    assert sum(len(sample.images) for sample in found) > 3
    by_beams = model.generate(prompts[:1], max_tokens=20, beams=3)
    assert by_beams[0].parts[1:]
    with pytest.raises(DataError, match="the image that begins at token 1 has not 4 codes"):
        model.code_ids.parse([5, model.code_ids.begin, model.code_ids.ids[0], model.code_ids.end])
    with pytest.raises(DataError, match="token 0 is a part of an image that did not begin"):
        model.code_ids.parse([model.code_ids.ids[0]])


def test_an_answer_may_be_bound_to_choices() -> None:
    model = painter().eval()
    (found,) = model.generate([Sample("a", (Text("x", "user"),))], allowed=model.choices(["Yes", "No"]))
    assert found.texts[-1].text.strip() in ("yes", "no")  # as this tokenizer writes them


@torch.no_grad()
def test_infilling_moves_the_codes_of_an_image_with_their_places() -> None:
    infilling = Infilling(mean=2.0)
    model = painter(infilling, template="")
    images = [painted(0, 1, 2, 3), painted(4, 5, 6, 7), painted(7, 0, 7, 0)]
    samples = [
        Sample("a", (images[0].placed("", True), Text(" a red ball ", target=True), images[1].placed("", True))),
        Sample("b", (images[2].placed("", True), Text("No", target=True))),
    ]
    whole = model.tokenized(model.processor(samples)).stream
    assert whole is not None
    masks = [model.processor.ids(mask)[0] for mask in infilling.masks]
    (end,) = model.processor.ids(infilling.end)
    moved = 0
    for seed in range(20):
        rngs = [np.random.default_rng((seed, at)) for at in range(2)]
        batch = model.processor(samples, rngs)
        stream = model.tokenized(batch).stream
        assert stream is not None
        rows = torch.split(stream.ids_T, stream.lengths_B.tolist())
        for row, expected in zip(rows, torch.split(whole.ids_T, whole.lengths_B.tolist()), strict=True):
            assert restored(row.tolist(), masks, end) == expected.tolist()
        moved += sum(end in row.tolist() for row in rows)
        again = [model.tokenized(part).stream for part in batch.split(2)]
        assert torch.equal(torch.cat([part.ids_T for part in again if part is not None]), stream.ids_T)
        masked = torch.isin(stream.ids_T, torch.tensor(masks))
        assert not stream.target_T[masked].any(), "where a gap is, is not learned"
        assert stream.target_T[stream.ids_T == end].all(), "where it ends, is"
    assert moved > 30


def restored(ids: list[int], masks: list[int], end: int) -> list[int]:
    """The stream with spans in the places of their masks."""
    if end not in ids:
        return ids
    first = next(at for at in range(len(ids)) if ids[at] in masks and ids[at] in ids[:at])
    rest, spans = ids[first:], {}
    while rest:
        stop = rest.index(end)
        spans[rest[0]] = rest[1:stop]
        rest = rest[stop + 1 :]
    return [token for place in ids[:first] for token in spans.get(place, [place])]


def test_what_does_not_fit_is_told() -> None:
    model = painter()
    model.processor.layout = replace(LAYOUT, codes=9)
    with pytest.raises(RecipeError, match="codes 9, but Fused is made for codes 8"):
        model.check()
    made = processor(LAYOUT)
    with pytest.raises(DataError, match="'<image_3>' in its text, a token that stands for a part of an image"):
        made.prompts([Sample("a", (Text("see <image_3>"),))])
    for entries in ({"name": "code"}, {"digits": "0123"}, {"codes": 0}):
        with pytest.raises(RecipeError, match=r"processor\.layout"):
            replace(LAYOUT, **entries)
