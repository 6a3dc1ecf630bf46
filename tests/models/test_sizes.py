"""Every published size has the published number of parameters; nothing is allocated."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from chiasm.data.processor import PairProcessor
from chiasm.models import clip, siglip, siglip2
from chiasm.nn.image_towers import vit
from chiasm.nn.text_towers import transformer
from chiasm.weights.transformers._towers import ACTS
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


# What open_clip calls each size; its configurations say all of them but the activation.
SIGLIP = {
    "b-16-224": "ViT-B-16-SigLIP",
    "b-16-256": "ViT-B-16-SigLIP-256",
    "b-16-384": "ViT-B-16-SigLIP-384",
    "b-16-512": "ViT-B-16-SigLIP-512",
    "l-16-256": "ViT-L-16-SigLIP-256",
    "l-16-384": "ViT-L-16-SigLIP-384",
    "so400m-14-224": "ViT-SO400M-14-SigLIP",
    "so400m-14-384": "ViT-SO400M-14-SigLIP-384",
}
SIGLIP2 = {
    "b-32-256": "ViT-B-32-SigLIP2-256",
    "b-16-224": "ViT-B-16-SigLIP2",
    "b-16-256": "ViT-B-16-SigLIP2-256",
    "b-16-384": "ViT-B-16-SigLIP2-384",
    "b-16-512": "ViT-B-16-SigLIP2-512",
    "l-16-256": "ViT-L-16-SigLIP2-256",
    "l-16-384": "ViT-L-16-SigLIP2-384",
    "l-16-512": "ViT-L-16-SigLIP2-512",
    "so400m-14-224": "ViT-SO400M-14-SigLIP2",
    "so400m-14-384": "ViT-SO400M-14-SigLIP2-378",  # as many patches
    "so400m-16-256": "ViT-SO400M-16-SigLIP2-256",
    "so400m-16-384": "ViT-SO400M-16-SigLIP2-384",
    "so400m-16-512": "ViT-SO400M-16-SigLIP2-512",
    "g-opt-16-256": "ViT-gopt-16-SigLIP2-256",
    "g-opt-16-384": "ViT-gopt-16-SigLIP2-384",
}


@pytest.mark.parametrize(
    ("sizes", "size", "name"),
    [(sizes, *pair) for sizes, names in ((siglip.SIZES, SIGLIP), (siglip2.SIZES, SIGLIP2)) for pair in names.items()],
)
def test_siglip_is_configured_as_open_clip_configures_it(sizes: Any, size: str, name: str) -> None:
    """But for GELU, of which open_clip takes the exact form where the released files name that of tanh, as the towers
    were trained with; transformers' configuration class begins with it. What training begins with is no file's."""
    from transformers import SiglipTextConfig, SiglipVisionConfig

    from chiasm.weights.open_clip import _siglip

    ours = sizes[size]
    theirs: Any = _siglip.read_model(peers.open_clip().get_model_config(name), name)[0]
    acts = {one: ACTS[kind().hidden_act] for one, kind in (("vision", SiglipVisionConfig), ("text", SiglipTextConfig))}
    vision = replace(theirs.vision, act=acts["vision"])
    if name.endswith("-378"):
        assert vision.image_size // vision.patch == ours.vision.image_size // ours.vision.patch
        vision = replace(vision, image_size=384)
    text = replace(theirs.text, act=acts["text"])
    assert type(ours)(vision, text, ours.scale, ours.bias, theirs.text_head) == ours


def test_no_siglip_goes_unchecked() -> None:
    assert SIGLIP.keys() == siglip.SIZES.keys() - {"small"}
    naflex = {"b-16-naflex", "so400m-16-naflex"}
    assert SIGLIP2.keys() == siglip2.SIZES.keys() - {"small", "small-naflex"} - naflex


@pytest.mark.parametrize(
    ("size", "tower"),
    [
        ("b-16-naflex", {}),
        ("so400m-16-naflex", {"hidden_size": 1152, "intermediate_size": 4304, "layers": 27, "heads": 16}),
    ],
)
def test_naflex_is_what_transformers_makes_of_the_released_settings(size: str, tower: dict[str, int]) -> None:
    """google/siglip2-base-patch16-naflex, whose towers are what the classes begin with, and -so400m-."""
    from transformers import Siglip2TextConfig, Siglip2VisionConfig

    from chiasm.weights.files import read_section
    from chiasm.weights.transformers import siglip as reader
    from chiasm.weights.transformers import siglip2 as reader2

    names = {"layers": "num_hidden_layers", "heads": "num_attention_heads"}
    given: Any = {names.get(key, key): value for key, value in tower.items()}
    vision = read_section(reader2._VISION, Siglip2VisionConfig(num_patches=256, **given).to_dict(), size).tower()
    text = read_section(reader.TEXT, Siglip2TextConfig(vocab_size=256_000, **given).to_dict(), size).tower(causal=False)
    assert siglip2.Config(vision, text) == siglip2.SIZES[size]


@pytest.mark.parametrize(
    ("size", "millions"), [("b-16-224", 203.2), ("l-16-256", 652.2), ("so400m-14-384", 878.0), ("so400m-14-224", 877.4)]
)
def test_siglip_has_the_published_size(size: str, millions: float) -> None:
    """In millions, as the released models are listed (open_clip's docs/model_profile.csv)."""
    assert round(count(built(siglip.SIZES[size])) / 1e6, 1) == millions


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
