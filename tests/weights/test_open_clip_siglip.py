"""open_clip's SigLIP, with a vision tower of timm's: read, computed and written as open_clip does."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import chiasm
from chiasm.data.batch import Batch
from chiasm.data.image import Image
from chiasm.errors import CheckpointError
from chiasm.models import siglip
from chiasm.nn.image_towers import vit
from chiasm.weights import open_clip as adapter
from chiasm.weights.open_clip import _siglip
from tests import peers
from tests.weights import tiny, tiny_siglip2
from tests.weights.shaking import shaken

NAMES = {"gelu": "vit_tiny_patch8_siglip_32", "gelu_tanh": "vit_tiny_patch8_siglip_tanh_32"}
CONTEXT = 16


@pytest.fixture(autouse=True)
def small_towers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two more towers, tiny ones, on either side; timm's published ones take hundreds of megabytes."""
    peers.open_clip()
    registry = importlib.import_module("timm.models._registry")
    towers = importlib.import_module("timm.models.vision_transformer")
    known = set(registry._model_entrypoints)
    for act, name in NAMES.items():
        monkeypatch.setitem(_siglip.TOWERS, name, tower(act))

        def build(pretrained: bool = False, act: str = act, **given: Any) -> Any:
            own = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "mlp_ratio": 2.7, "img_size": 32}
            asked = {key: given[key] for key in ("num_classes", "global_pool")}
            return towers.VisionTransformer(**own, **asked, class_token=False, act_layer=act)

        build.__name__ = name
        build.__module__ = towers.__name__
        monkeypatch.setitem(registry._model_entrypoints, name, build)
        monkeypatch.setitem(registry._model_to_module, name, "vision_transformer")
    yield
    assert set(registry._model_entrypoints) - known <= set(NAMES.values())


def tower(act: Any) -> vit.Config:
    return vit.Config(32, 8, 48, 2, 4, 129, "map", act, pre_norm=False, epsilon=1e-6)


def settings(act: str, head: bool = True, clean: str | None = "canonicalize") -> dict[str, Any]:
    """A model_cfg as those that open_clip ships."""
    text = {
        "context_length": CONTEXT,
        "vocab_size": len(tiny_siglip2.gemma_vocabulary()[0]),
        "hf_tokenizer_name": "somebody/tokenizer",
        "width": 48,
        "heads": 4,
        "layers": 2,
        "mlp_ratio": 2.3,
        "no_causal_mask": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-06},
    }
    text |= {"tokenizer_kwargs": {"clean": clean}} if clean else {}
    text |= {"proj_bias": True} if head else {"proj_type": "none"}
    text |= {"act_kwargs": {"approximate": "tanh"}} if act == "gelu_tanh" else {}
    vision = {
        "image_size": 32,
        "timm_model_name": NAMES[act],
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    return {"embed_dim": 48, "init_logit_bias": -10, "custom_text": True, "vision_cfg": vision, "text_cfg": text}


def peer_model(open_clip: ModuleType, entries: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = shaken(open_clip.CustomTextCLIP(**{key: value for key, value in entries.items() if key != "custom_text"}))
    cfg = {"size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    open_clip.model.set_model_preprocess_cfg(model, cfg)
    return model


def written(open_clip: ModuleType, folder: Path, model: Any, entries: dict[str, Any]) -> Path:
    tokenizer = tiny_siglip2.gemma_tokenizer("GemmaTokenizer")
    importlib.import_module("open_clip.push_to_hf_hub").save_for_hf(
        model, tokenizer, entries, str(folder), safe_serialization=True
    )
    tiny_siglip2.write_tokenizer(folder, "GemmaTokenizer")
    return folder


@torch.no_grad()
def assert_same_model(open_clip: ModuleType, ours: siglip.SigLIP, peer: Any, folder: Path) -> None:
    """From photos and captions, through each side's own preprocessing, to embeddings and the loss."""
    photos, texts = tiny.photos()[: len(tiny.CAPTIONS)], list(tiny.CAPTIONS)
    cfg = open_clip.transform.PreprocessCfg(**peer.visual.preprocess_cfg)
    show = open_clip.transform.image_transform_v2(cfg, False)
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    image_ND, text_ND, scale, bias = peer(torch.stack([show(tiny.rgb(one)) for one in photos]), ids)
    images, tokens = ours.processor.images([Image(one) for one in photos]), ours.processor.texts(texts)
    assert torch.equal(tokens.ids_BT, ids)
    tiny.assert_near(ours.encode_images(images), image_ND)
    tiny.assert_near(ours.encode_texts(tokens), text_ND)
    tiny.assert_near(ours.log_scale.exp(), scale)
    tiny.assert_near(ours.bias, bias)
    loss = ours.losses(Batch(tuple(map(str, photos)), images, tokens))["sigmoid"]
    tiny.assert_near(loss, open_clip.loss.SigLipLoss()(image_ND, text_ND, scale, bias))


@pytest.mark.parametrize(("act", "head", "clean"), [("gelu", True, None), ("gelu_tanh", False, "canonicalize")])
def test_parity_and_back(act: str, head: bool, clean: str | None, tmp_path: Path) -> None:
    open_clip = peers.open_clip()
    entries = settings(act, head, clean)
    peer = peer_model(open_clip, entries)
    folder = written(open_clip, tmp_path / "theirs", peer, entries)
    ours = chiasm.load(folder)
    assert isinstance(ours, siglip.SigLIP)
    assert ours.config.text_head is head
    assert_same_model(open_clip, ours, peer, folder)
    adapter.save(ours, tmp_path / "ours")
    again, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'ours'}")
    assert_same_model(open_clip, ours, again.eval(), tmp_path / "ours")
    reloaded = adapter.load(tmp_path / "ours")
    assert reloaded.config == ours.config
    assert reloaded.processor.tokenizer(tiny.CAPTIONS).ids_BT.equal(ours.processor.tokenizer(tiny.CAPTIONS).ids_BT)


@pytest.mark.parametrize("clean", ["canonicalize", "lower", "whitespace"])
def test_texts_are_cleaned_as_the_config_says(clean: Any) -> None:
    from chiasm.weights.cleaning import OPEN_CLIP, clean_first

    tokenizer = importlib.import_module(f"{peers.open_clip().__name__}.tokenizer")
    backend = transformers.PreTrainedTokenizerFast(tokenizer_object=tiny_siglip2.gemma_tokenizer()._tokenizer)
    backend.backend_tokenizer.normalizer = None
    ours = backend.backend_tokenizer
    clean_first(ours, OPEN_CLIP[clean])
    once = ours.to_str()
    clean_first(ours, OPEN_CLIP[clean])
    assert ours.to_str() == once  # to ask for it again changes nothing
    for text in (*tiny.CAPTIONS, "snake_case  and\tTabs\n", "__", "It's [ALL] the same!?", " (a) "):
        assert ours.normalizer.normalize_str(text) == tokenizer.get_clean_fn(clean)(text).replace("  ", " ")


def test_every_wrong_tensor_is_named(tmp_path: Path) -> None:
    open_clip, entries = peers.open_clip(), settings("gelu")
    folder = written(open_clip, tmp_path, peer_model(open_clip, entries), entries)
    state = load_file(folder / "open_clip_model.safetensors")
    del state["visual.trunk.attn_pool.latent"]
    state["visual.trunk.pos_embed"] = torch.zeros(1, 9, 48)
    state["visual.head.weight"] = torch.zeros(2)
    save_file(state, folder / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        adapter.load(folder)
    told = str(caught.value)
    assert "missing: visual.trunk.attn_pool.latent (1, 1, 48); unexpected: visual.head.weight (2,);" in told
    assert told.endswith("misshapen: visual.trunk.pos_embed (1, 9, 48) instead of (1, 16, 48)")


@pytest.mark.parametrize(
    ("place", "key", "value", "told"),
    [
        ("vision_cfg", "timm_pool", "avg", "'avg' is not a choice"),
        ("vision_cfg", "image_size", 64, "image_size 64 is not vit_tiny"),
        ("vision_cfg", "timm_proj", "linear", "'linear' is not a choice"),
        ("text_cfg", "no_causal_mask", False, "False is not a choice"),
        ("text_cfg", "hf_model_name", "xlm-roberta-base", "which we cannot follow"),
        ("text_cfg", "tokenizer_kwargs", {"strip_sep_token": True}, "there is no such key"),
        ("", "init_logit_bias", None, "without init_logit_bias"),
        ("", "embed_dim", 32, "embed_dim 32"),
    ],
)
def test_what_we_cannot_follow_is_refused(place: str, key: str, value: Any, told: str, tmp_path: Path) -> None:
    open_clip, entries = peers.open_clip(), settings("gelu")
    folder = written(open_clip, tmp_path, peer_model(open_clip, entries), entries)
    file = folder / "open_clip_config.json"
    content = json.loads(file.read_text())
    (content["model_cfg"][place] if place else content["model_cfg"])[key] = value
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=told):
        adapter.load(folder)


def test_the_published_towers_have_timms_shapes() -> None:
    """Counts do not see heads and activations."""
    timm = importlib.import_module("timm")
    for name, ours in _siglip.TOWERS.items():
        if name in NAMES.values():
            continue
        with torch.device("meta"):
            theirs = timm.create_model(name)
        act = "gelu" if type(theirs.blocks[0].mlp.act).__name__ == "GELU" else "gelu_tanh"
        assert ours.act == act, name
        assert (ours.heads, ours.layers) == (theirs.blocks[0].attn.num_heads, len(theirs.blocks))
        assert (ours.image_size, ours.patch, ours.mlp_width) == (
            theirs.patch_embed.img_size[0],
            theirs.patch_embed.patch_size[0],
            theirs.blocks[0].mlp.fc1.out_features,
        )
        assert ours.epsilon == theirs.norm.eps == theirs.attn_pool.norm.eps
