"""CLIP and SigLIP as models: what they promise whatever their weights, and that they learn."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from chiasm.config import dump, parse
from chiasm.data.batch import Batch
from chiasm.data.processor import PairProcessor
from chiasm.data.sample import Sample, Text
from chiasm.data.tokenizer import TextTransform, Tokenizer
from chiasm.data.transforms import ImageTransform
from chiasm.errors import DataError
from chiasm.models import clip, siglip
from chiasm.models.model import ModelConfig, verbs
from chiasm.nn.image_towers import resnet, vit
from chiasm.nn.text_towers import transformer
from tests.worlds import Patches, tiny_processor

CONTEXT = 16
VIT = vit.Config(16, 4, 32, 2, 4, 64)
MAP = vit.Config(16, 4, 32, 2, 4, 64, pool="map", act="gelu_tanh", pre_norm=False, epsilon=1e-6)
RESNET = resnet.Config(32, 8, (1, 1, 1, 1), 4)
TEXT = transformer.Config(320, CONTEXT, 32, 2, 4, 64)


def processor(size: int = 16, padding: str = "longest") -> PairProcessor:
    given = tiny_processor(CONTEXT)
    rules = TextTransform(context=CONTEXT, padding=padding)  # type: ignore[arg-type]
    image = ImageTransform(size, mean=given.image.mean, std=given.image.std)
    return PairProcessor(image, Tokenizer(given.tokenizer.backend, rules))


def clip_vit() -> clip.CLIP:
    return clip.CLIP(clip.Config(VIT, TEXT, 24), processor())


def clip_resnet() -> clip.CLIP:
    return clip.CLIP(clip.Config(RESNET, TEXT, 24), processor(32))


def siglip_map() -> siglip.SigLIP:
    config = siglip.Config(MAP, transformer.Config(320, CONTEXT, 32, 2, 4, 64, causal=False, act="gelu_tanh"))
    return siglip.SigLIP(config, processor(padding="context"))


MODELS: list[Callable[[], clip.CLIP | siglip.SigLIP]] = [clip_vit, clip_resnet, siglip_map]


def batch(model: clip.CLIP | siglip.SigLIP, count: int) -> Batch:
    """Samples of which each has a caption of its own."""
    samples = [Patches()[index] for index in range(count)]
    return model.processor(
        [Sample(one.key, (*one.parts, Text(one.captions[0]))) for one in samples],
    )


@pytest.fixture(params=MODELS, ids=lambda build: build.__name__)
def model(request: pytest.FixtureRequest) -> clip.CLIP | siglip.SigLIP:
    torch.manual_seed(0)
    built: clip.CLIP | siglip.SigLIP = request.param()
    return built.eval()


def test_embeddings_keep_their_order_whatever_the_chunks(model: clip.CLIP | siglip.SigLIP) -> None:
    """130 of them are two chunks; texts are sorted by length on the way, and put back."""
    world = Patches(130)
    images = [world[index].image for index in range(130)]
    texts = [f"{world[index].captions[index % 2]} {'and so on ' * (index % 3)}" for index in range(130)]
    image_ND, text_ND = model.embed_images(images), model.embed_texts(texts)
    for index in (0, 64, 129):
        torch.testing.assert_close(model.embed_images([images[index]])[0], image_ND[index], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.embed_texts([texts[index]])[0], text_ND[index], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(image_ND.norm(dim=1), torch.ones(130))
    torch.testing.assert_close(text_ND.norm(dim=1), torch.ones(130))
    torch.testing.assert_close(model.score(images[:3], texts[:5]), image_ND[:3] @ text_ND[:5].T)
    assert verbs(type(model)) == ("embed", "score")


@pytest.mark.slow
def test_it_learns(model: clip.CLIP | siglip.SigLIP) -> None:
    """Eight pairs, known by heart in 160 steps; every parameter takes part."""
    model.train()
    given = batch(model, 8)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    name = "contrastive" if isinstance(model, clip.CLIP) else "sigmoid"
    losses = []
    for _ in range(160):
        loss = model.losses(given)[name]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0], losses
    assert given.images is not None
    assert given.texts is not None
    scores = model.encode_images(given.images) @ model.encode_texts(given.texts).T
    assert scores.argmax(1).tolist() == list(range(8))
    silent = [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()]
    # The position behind the longest text was never read.
    assert [one for one in silent if not one.endswith("position")] == []


def test_clip_does_not_see_what_stands_behind_a_text() -> None:
    torch.manual_seed(0)
    model = clip_vit()
    tokens = model.processor.texts(["red and blue", "a much longer text, red left of blue"])
    alone = model.processor.texts(["red and blue"])
    changed = tokens.ids_BT.clone()
    changed[0, tokens.lengths_B[0] :] = 7
    expected = model.encode_texts(alone)[0]
    for ids in (tokens.ids_BT, changed, F.pad(tokens.ids_BT, (0, CONTEXT - tokens.ids_BT.shape[1]))):
        again = model.encode_texts(type(tokens)(ids, tokens.lengths_B, tokens.target_BT))[0]
        torch.testing.assert_close(again, expected, atol=1e-6, rtol=1e-5)


def test_siglip_sees_its_padding_and_wants_all_of_it() -> None:
    torch.manual_seed(0)
    model = siglip_map()
    tokens = model.processor.texts(["red and blue"])
    assert tokens.ids_BT.shape == (1, CONTEXT)
    changed = tokens.ids_BT.clone()
    changed[0, -1] = 7
    other = model.encode_texts(type(tokens)(changed, tokens.lengths_B, tokens.target_BT))
    assert (other - model.encode_texts(tokens)).abs().max() > 1e-3
    with pytest.raises(
        DataError, match=r"padded to its context of 16, but was given 5 tokens; set text.padding: context"
    ):
        model.encode_texts(type(tokens)(tokens.ids_BT[:, :5], tokens.lengths_B, tokens.target_BT[:, :5]))


def test_learned_scales_begin_where_the_papers_begin() -> None:
    assert math.isclose(clip_vit().log_scale.exp().item(), 1 / 0.07, rel_tol=1e-5)
    model = siglip_map()
    assert math.isclose(model.log_scale.item(), math.log(10), rel_tol=1e-6)
    assert model.bias.item() == -10


def test_clips_scale_is_held_at_100() -> None:
    """Section 2.5: clipped, to prevent scaling the logits by more than 100."""
    torch.manual_seed(0)
    model = clip_vit().eval()
    given = batch(model, 6)
    at_100 = []
    for scale in (100.0, 1000.0):
        with torch.no_grad():
            model.log_scale.fill_(math.log(scale))
        losses = model.losses(given)
        at_100.append(losses["contrastive"].item())
        assert math.isclose(losses["_temperature"].item(), 0.01, rel_tol=1e-4)
    assert math.isclose(*at_100, rel_tol=1e-4)


def test_clips_loss_is_figure_3_of_the_paper() -> None:
    """The paper's pseudocode, line by line, on the same towers."""
    torch.manual_seed(0)
    model = clip_vit().eval()
    given = batch(model, 6)
    assert given.images is not None
    assert given.texts is not None
    i_f, t_f = model.vision(given.images), model.text(given.texts)
    i_e, t_e = (x / x.norm(dim=1, keepdim=True) for x in (model.image_head(i_f), model.text_head(t_f)))
    logits = i_e @ t_e.T * model.log_scale.exp()
    labels = torch.arange(6)
    loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(model.losses(given)["contrastive"], loss)


@pytest.mark.parametrize("config", [*clip.SIZES.values(), *siglip.SIZES.values()])
def test_each_size_survives_its_config_file(config: ModelConfig) -> None:
    assert parse(ModelConfig, dump(config)) == config  # type: ignore[type-abstract]  # one of its subclasses


def test_a_recipe_may_choose_a_resnet() -> None:
    entries = {"family": "clip", "size": "rn50", "vision": {"image_size": 64}, "width": 32}
    config = parse(ModelConfig, entries)  # type: ignore[type-abstract]  # likewise
    assert isinstance(config, clip.Config)
    assert config.vision == resnet.Config(64, 64, (3, 4, 6, 3), 32)
