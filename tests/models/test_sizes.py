"""Every published size has the published number of parameters; nothing is allocated."""

from typing import Any

import pytest
import torch

from chiasm.data.processor import PairProcessor
from chiasm.models import clip, siglip, siglip2
from chiasm.nn.image_towers import naflex, vit
from chiasm.nn.text_towers import transformer
from tests import peers

# Of the released models, to the digit; in millions they stand in open_clip's docs/model_profile.csv.
PUBLISHED = {
    "rn50": 102_007_137,
    "rn101": 119_688_033,
    "rn50x4": 178_300_601,
    "rn50x16": 290_979_217,
    "rn50x64": 623_258_305,
    "vit-b-32": 151_277_313,
    "vit-b-16": 149_620_737,
    "vit-l-14": 427_616_513,
    "vit-l-14-336": 427_944_193,
    "vit-h-14": 986_109_441,
    "vit-g-14": 1_366_678_273,
    "vit-bigg-14": 2_539_567_105,
}
OPEN_CLIP = {
    "rn50": "RN50-quickgelu",
    "rn101": "RN101-quickgelu",
    "rn50x4": "RN50x4-quickgelu",
    "rn50x16": "RN50x16-quickgelu",
    "rn50x64": "RN50x64-quickgelu",
    "vit-b-32": "ViT-B-32-quickgelu",
    "vit-b-16": "ViT-B-16-quickgelu",
    "vit-l-14": "ViT-L-14-quickgelu",
    "vit-l-14-336": "ViT-L-14-336-quickgelu",
    "vit-h-14": "ViT-H-14",
    "vit-g-14": "ViT-g-14",
    "vit-bigg-14": "ViT-bigG-14",
}


def built(config: clip.Config | siglip.Config) -> Any:
    processor: Any = None  # sizes have none
    with torch.device("meta"):
        return config.model()(config, processor)  # type: ignore[arg-type]  # the class that this config names


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_no_size_goes_unchecked() -> None:
    assert PUBLISHED.keys() == OPEN_CLIP.keys() == clip.SIZES.keys() - {"small"}
    assert issubclass(clip.CLIP.processor_type, PairProcessor)


@pytest.mark.parametrize("size", PUBLISHED)
def test_clip_has_the_published_size(size: str) -> None:
    assert count(built(clip.SIZES[size])) == PUBLISHED[size]


@pytest.mark.parametrize("size", OPEN_CLIP)
def test_clip_is_configured_as_open_clip_configures_it(size: str) -> None:
    """Counts do not see heads, activations or resolutions: open_clip's own file is read as our adapter reads it."""
    from chiasm.weights.open_clip._settings import read_model

    config, image_size, _ = read_model(peers.open_clip().get_model_config(OPEN_CLIP[size]), size)
    assert config == clip.SIZES[size]
    assert built(clip.SIZES[size]).vision.image_size == image_size


def test_the_text_tower_is_63_million() -> None:
    """Section 2.4 of the CLIP paper: "a 63M-parameter 12-layer 512-wide model with 8 attention heads"."""
    model = built(clip.SIZES["vit-b-32"])
    assert round((count(model.text) + count(model.text_head)) / 1e6) == 63
    assert model.config.text.heads == 8


def as_transformers(config: siglip.Config) -> int:
    """The parameters of a SiglipModel of the same shape."""
    from transformers import SiglipConfig, SiglipModel

    from chiasm.weights.transformers._towers import text_section, vision_section

    settings = SiglipConfig(
        vision_config=vision_section(config.vision, "map", pre_norm=False),
        text_config=text_section(config.text, causal=False),
    )
    with torch.device("meta"):
        return count(SiglipModel(settings))


@pytest.mark.parametrize("size", [size for size in siglip.SIZES if size != "small"])  # its stem is ours alone
def test_siglip_has_the_size_of_the_same_model_in_transformers(size: str) -> None:
    assert count(built(siglip.SIZES[size])) == as_transformers(siglip.SIZES[size])


@pytest.mark.parametrize(
    ("size", "millions"), [("b-16-224", 203.2), ("l-16-256", 652.2), ("so400m-14-384", 878.0), ("so400m-14-224", 877.4)]
)
def test_siglip_has_the_published_size(size: str, millions: float) -> None:
    """In millions, as the released models are listed (open_clip's docs/model_profile.csv)."""
    assert round(count(built(siglip.SIZES[size])) / 1e6, 1) == millions


def as_transformers_2(config: siglip2.Config) -> int:
    """The parameters of the class of transformers that holds such a SigLIP 2, made of nothing but its settings."""
    from transformers import Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel

    shapes = {768: (3072, 12, 12), 1024: (4096, 24, 16), 1152: (4304, 27, 16), 1536: (6144, 40, 16)}

    def tower(width: int) -> dict[str, int]:
        mlp_width, layers, heads = shapes[width]
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        return dict(zip(names, (width, mlp_width, layers, heads), strict=True))

    vision, text = config.vision, config.text
    assert isinstance(vision, (vit.Config, naflex.Config))
    assert isinstance(text, transformer.Config)
    texts = tower(text.width) | {"vocab_size": 256_000, "projection_size": vision.width}
    images = tower(vision.width) | {"patch_size": vision.patch}
    with torch.device("meta"):
        if isinstance(vision, naflex.Config):
            return count(Siglip2Model(Siglip2Config(vision_config=images | {"num_patches": 256}, text_config=texts)))
        return count(
            SiglipModel(SiglipConfig(vision_config=images | {"image_size": vision.image_size}, text_config=texts))
        )


@pytest.mark.parametrize("size", [size for size in siglip2.SIZES if not size.startswith("small")])
def test_siglip2_has_the_size_of_the_same_model_in_transformers(size: str) -> None:
    assert count(built(siglip2.SIZES[size])) == as_transformers_2(siglip2.SIZES[size])


@pytest.mark.parametrize(
    ("size", "name"),
    [
        ("b-32-256", "ViT-B-32-SigLIP2-256"),
        ("b-16-512", "ViT-B-16-SigLIP2-512"),
        ("l-16-384", "ViT-L-16-SigLIP2-384"),
        ("so400m-14-384", "ViT-SO400M-14-SigLIP2-378"),  # as many patches
        ("so400m-16-256", "ViT-SO400M-16-SigLIP2-256"),
        ("g-opt-16-384", "ViT-gopt-16-SigLIP2-384"),
    ],
)
def test_siglip2_is_configured_as_open_clip_configures_it(size: str, name: str) -> None:
    from chiasm.weights.open_clip import _siglip

    config, _, _ = _siglip.read_model(peers.open_clip().get_model_config(name), name)
    ours = siglip2.SIZES[size]
    for mine, theirs in ((ours.vision, config.vision), (ours.text, config.text)):
        assert isinstance(mine, (vit.Config, transformer.Config))
        assert isinstance(theirs, type(mine))
        for entry in ("width", "layers", "heads", "mlp_width", "epsilon"):
            assert getattr(mine, entry) == getattr(theirs, entry)
    assert count(built(ours)) == count(built(config))


@pytest.mark.parametrize(
    ("size", "tokens"), [("b-16-224", 196), ("b-16-512", 1024), ("l-16-384", 576), ("so400m-14-384", 729)]
)
def test_siglip_sees_the_published_number_of_patches(size: str, tokens: int) -> None:
    tower = built(siglip.SIZES[size]).vision
    assert isinstance(tower.config, vit.Config)
    assert tower.position.shape[0] == tokens


def test_small_models_share_a_shape() -> None:
    """The two that train on a laptop differ only where the papers do."""
    one, other = clip.SIZES["small"], siglip.SIZES["small"]
    for mine, theirs in ((one.vision, other.vision), (one.text, other.text)):
        assert isinstance(mine, (vit.Config, transformer.Config))
        assert isinstance(theirs, type(mine))
        assert (mine.width, mine.layers, mine.heads, mine.mlp_width) == (
            theirs.width,
            theirs.layers,
            theirs.heads,
            theirs.mlp_width,
        )
