"""BLIP-2's first stage: its losses are those of the released code, and nobody sees what is not theirs to see."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from chiasm.data.batch import Batch
from chiasm.data.processor import PairProcessor
from chiasm.data.tokenizer import TextTransform, Tokenizer, learn_tokenizer
from chiasm.data.transforms import ImageTransform
from chiasm.errors import RecipeError
from chiasm.losses.best_query import similarities
from chiasm.models import blip2_stage1
from chiasm.models.blip2_stage1 import BLIP2Stage1, Config
from chiasm.nn.connectors import q_former
from chiasm.nn.connectors.q_former import QFormer
from chiasm.nn.image_towers import vit
from tests.models import lavis_code
from tests.worlds import Patches

CONFIG = Config(
    vit.Config(32, 16, 32, 1, 2, 48, pool="class", pre_norm=False),
    q_former.Config(queries=5, width=24, layers=4, heads=4, mlp_width=40),
    width=12,
    vocabulary=301,
    context=40,
    words=20,
)
WORDS = 20


def small(config: Config = CONFIG) -> BLIP2Stage1:
    """Every tensor random and large enough to matter, in float64."""
    captions = [caption for sample in Patches() for caption in sample.captions]
    tokenizer = Tokenizer(learn_tokenizer(captions, 300), TextTransform(context=WORDS))
    torch.manual_seed(0)
    model = BLIP2Stage1(config, PairProcessor(ImageTransform(32), tokenizer))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "log_scale":
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.double().eval()


def pairs(model: BLIP2Stage1, count: int = 6) -> Batch:
    samples = [one.with_caption(one.captions[at % len(one.captions)]) for at, one in enumerate(Patches(count))]
    batch = model.processor(samples)
    assert batch.images is not None
    return replace(batch, images=batch.images.with_pixels(batch.images.pixels.double()))


# --- against the released code

_PARTS = {
    "attention_norm": "attention.output.LayerNorm",
    "attention.q": "attention.self.query",
    "attention.k": "attention.self.key",
    "attention.v": "attention.self.value",
    "attention.out": "attention.output.dense",
    "cross_norm": "crossattention.output.LayerNorm",
    "cross_attention.q": "crossattention.self.query",
    "cross_attention.k": "crossattention.self.key",
    "cross_attention.v": "crossattention.self.value",
    "cross_attention.out": "crossattention.output.dense",
    "mlp.up": "intermediate_query.dense",
    "mlp.down": "output_query.dense",
    "mlp_norm": "output_query.LayerNorm",
    "word_mlp.up": "intermediate.dense",
    "word_mlp.down": "output.dense",
    "word_mlp_norm": "output.LayerNorm",
}
_WHOLE = {
    "q_former.words": "bert.embeddings.word_embeddings",
    "q_former.positions": "bert.embeddings.position_embeddings",
    "q_former.norm": "bert.embeddings.LayerNorm",
    "caption_head.map": "cls.predictions.transform.dense",
    "caption_head.norm": "cls.predictions.transform.LayerNorm",
}


def _their_name(name: str) -> str:
    module, leaf = name.rsplit(".", 1)
    if module.startswith("q_former.layers."):
        _, _, index, part = module.split(".", 3)
        return f"bert.encoder.layer.{index}.{_PARTS[part]}.{leaf}"
    return f"{_WHOLE[module]}.{leaf}"


def _theirs(model: BLIP2Stage1) -> Any:
    """Their Q-Former with our weights, in float64."""
    inner = model.config.q_former
    config = transformers.BertConfig(
        vocab_size=model.config.vocabulary,
        hidden_size=inner.width,
        num_hidden_layers=inner.layers,
        num_attention_heads=inner.heads,
        intermediate_size=inner.mlp_width,
        max_position_embeddings=model.config.context,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    more = {"encoder_width": 32, "add_cross_attention": True, "cross_attention_freq": 2, "query_length": inner.queries}
    config.update(more)
    found = lavis_code.q_former(config).double().eval()
    named = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(("q_former.", "caption_head.")) and name not in ("q_former.queries", "caption_head.bias")
    }
    state = {_their_name(name): tensor for name, tensor in named.items()}
    words = model.state_dict()["q_former.words.weight"]
    bias = model.state_dict()["caption_head.bias"]
    state |= {"cls.predictions.decoder.weight": words, "cls.predictions.bias": bias}
    missing, unexpected = found.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"bert.embeddings.position_ids", "cls.predictions.decoder.bias"}
    found.cls.predictions.decoder.weight = found.bert.embeddings.word_embeddings.weight  # tied, as theirs is
    found.cls.predictions.decoder.bias = found.cls.predictions.bias
    return found


def test_losses_and_gradients_are_those_of_the_released_code(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    their_former = _theirs(model)
    batch = pairs(model)
    assert batch.images is not None
    assert batch.texts is not None
    torch.manual_seed(7)
    found = model.losses(batch)
    torch.manual_seed(7)
    draw_N2 = torch.rand(len(batch), 2)
    draws: Iterator[Tensor] = iter([*draw_N2[:, 0], *draw_N2[:, 1]])

    def by_our_draws(weights: Tensor, _count: int) -> Tensor:
        return torch.searchsorted(weights.cumsum(0), next(draws).to(weights) * weights.sum()).view(1)

    monkeypatch.setattr(torch, "multinomial", by_our_draws)
    width = WORDS - batch.texts.ids_BT.shape[1]
    padded = SimpleNamespace(
        input_ids=torch.nn.functional.pad(batch.texts.ids_BT, (0, width)),
        attention_mask=torch.nn.functional.pad(batch.texts.mask_BT.long(), (0, width)),
    )
    padded.to = lambda _device: padded

    def tokenizer(*_texts: object, **_settings: object) -> SimpleNamespace:
        return padded

    tokenizer.bos_token_id, tokenizer.pad_token_id = 300, 0  # type: ignore[attr-defined]  # as theirs has them
    parts = SimpleNamespace(
        visual_encoder=lambda pixels: model.vision.tokens(batch.images.with_pixels(pixels)),
        ln_vision=torch.nn.Identity(),
        query_tokens=model.q_former.queries[None],
        Qformer=their_former,
        vision_proj=model.image_head,
        text_proj=model.text_head,
        itm_head=model.matching_head,
        temp=1 / model.log_scale.exp(),
        tokenizer=tokenizer,
        max_txt_len=WORDS,
    )
    known = lavis_code.losses(parts, batch.images.pixels)
    expected = {"contrastive": known.loss_itc, "matching": known.loss_itm, "captioning": known.loss_lm}
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, atol=1e-6, rtol=1e-6)
    ours = dict(model.named_parameters())
    named = dict(their_former.named_parameters())
    pick = [
        name for name in ours if name.startswith(("q_former.layers", "q_former.words")) and not name.endswith("k.bias")
    ]
    total = torch.stack([found[name] for name in expected]).sum()
    mine = torch.autograd.grad(total, [ours[name] for name in pick], allow_unused=True)
    theirs = torch.autograd.grad(known.loss, [named[_their_name(name)] for name in pick], allow_unused=True)
    for name, one, other in zip(pick, mine, theirs, strict=True):
        assert one is not None, name
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


# --- who sees whom


def _moved(model: QFormer, kind: str, change: str, place: int) -> Tensor:
    """How far each place of the outcome moves when one word or one feature of the picture is another."""
    torch.manual_seed(1)
    features, ids = torch.randn(1, 4, 32, dtype=torch.double), torch.randint(3, 290, (1, 6))
    mask = torch.tensor([[True] * 5 + [False]])
    other_features, other_ids = features.clone(), ids.clone()
    if change == "word":
        other_ids[0, place] = 299
    else:
        other_features[0, place] += 1
    with torch.no_grad():
        read = {"together": model.together, "told": model.told}[kind]
        return (read(features, ids, mask) - read(other_features, other_ids, mask)).abs().amax(-1)[0]


def test_matching_reads_in_both_directions() -> None:
    model = small().q_former
    for place in range(5):
        assert (_moved(model, "together", "word", place) > 1e-6).all(), "every query sees every word"
    assert (_moved(model, "together", "word", 5) == 0).all(), "padding is not seen"
    assert (_moved(model, "together", "feature", 2) > 1e-6).all()


def test_captioning_reads_forward_and_through_the_queries_alone() -> None:
    model = small().q_former
    for place in range(5):
        moved = _moved(model, "told", "word", place)
        assert (moved[:place] == 0).all(), "no word sees a later one; nor do the queries, which would tell the earlier"
        assert (moved[place:5] > 1e-6).all()
    assert (_moved(model, "told", "feature", 2)[:5] > 1e-6).all(), "all words learn of the picture"
    with torch.no_grad():  # queries that attend to nothing of the picture: no other way leads from it to the words
        for name, parameter in model.named_parameters():
            if name.endswith("cross_attention.out.weight"):
                parameter.zero_()
    assert (_moved(model, "told", "feature", 2) == 0).all()


def test_queries_do_not_see_the_words_that_are_told() -> None:
    """The words' self-attention to queries equals that to queries read without any text."""
    model = small().q_former
    torch.manual_seed(1)
    features, ids = torch.randn(2, 4, 32, dtype=torch.double), torch.randint(3, 290, (2, 6))
    seen: list[Tensor] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _layer, _given, made: seen.append(made[:, :5]))
    with torch.no_grad():
        model(features)
        alone, seen = seen, []
        model.told(features, ids, torch.ones(2, 6, dtype=torch.bool))
    for one, other in zip(alone, seen, strict=True):
        torch.testing.assert_close(one, other)


# --- the rest


def test_the_opening_mark_takes_the_place_of_the_first() -> None:
    model = small()
    ids = torch.tensor([[1, 40, 50, 2]])
    seen, mask = torch.randn(1, 5, 32, dtype=torch.double), torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        known = model.tell(seen, ids, mask)
        ids[0, 0] = 77
        assert torch.equal(model.tell(seen, ids, mask), known)
        model.state_dict()["q_former.words.weight"][300] += 1
        assert not torch.allclose(model.tell(seen, ids, mask), known)


def test_negatives_are_never_the_pair_itself_and_likelier_the_more_alike() -> None:
    model = small()
    features = model.features(pairs(model, 8))
    alike = similarities(features["image"].detach(), features["text"].detach(), torch.tensor(3.0).double())
    counts = torch.zeros(8, 8)
    edges = [torch.zeros(8, 2), torch.ones(8, 2)]  # draws may be 0, and round to 1
    for draw in (*edges, *torch.rand(4000, 8, 2)):
        pictures, _ = alike.negatives(draw)
        counts[torch.arange(8), pictures] += 1
    assert (counts.diag() == 0).all()
    chances = alike.texts_NM.softmax(1) + 1e-4
    chances.fill_diagonal_(0)
    expected = (chances / chances.sum(1, keepdim=True)).float()
    torch.testing.assert_close(counts / counts.sum(1, keepdim=True), expected, atol=0.03, rtol=0)


def test_the_temperature_stays_above_a_thousandth() -> None:
    model = small()
    features, found = model.features(pairs(model)), []
    for log_scale in (math.log(1000), 9.0):
        with torch.no_grad():
            model.log_scale.fill_(log_scale)
        found.append(model.losses_of(features))
    assert float(found[1]["_temperature"]) == pytest.approx(0.001)
    torch.testing.assert_close(found[1], found[0])


def test_a_tokenizer_that_takes_the_opening_mark_is_refused() -> None:
    model = small()
    model.check()
    taken = small(replace(CONFIG, vocabulary=model.processor.tokenizer.vocabulary - 1))
    with pytest.raises(RecipeError, match="must be left to open captions"):
        taken.check()


def test_the_published_size() -> None:
    """Section 3.4: 188M parameters of the Q-Former in stage 1; transformers counts the rest."""
    config = blip2_stage1.SIZES["vit-g"]
    with torch.device("meta"):
        former = QFormer(1408, config.q_former, q_former.Words(config.vocabulary, config.context))
        theirs = transformers.Blip2ForImageTextRetrieval(
            transformers.Blip2Config(qformer_config={"use_qformer_text_input": True, "vocab_size": 30_523})
        )
    count = sum(parameter.numel() for parameter in former.parameters())
    assert round(count / 1e6) in (185, 186, 187, 188, 189)
    known = sum(parameter.numel() for parameter in theirs.parameters())
    assert replace(config, captioning=False).parameters() == known + 1  # the temperature, which theirs has not
    assert round(config.parameters() / 1e9, 1) == 1.2
