"""open_clip's folders: what we read computes what open_clip computes, and the other way about."""

import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from chiasm.data.batch import Batch
from chiasm.data.image import Image
from chiasm.data.processor import PairProcessor
from chiasm.data.tokenizer import TextTransform, Tokenizer, learn_tokenizer
from chiasm.data.transforms import ImageTransform
from chiasm.errors import CheckpointError
from chiasm.models import clip, siglip
from chiasm.models.model import Model
from chiasm.nn.attention import Activation
from chiasm.nn.image_towers import resnet, vit
from chiasm.nn.text_towers import transformer
from chiasm.weights import byte_pairs
from chiasm.weights import open_clip as adapter
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.open_clip._settings import read_pixels, write_pixels
from chiasm.weights.texts import read_tokenizer
from tests import peers
from tests.shared_data import shared_data
from tests.weights import tiny

CONTEXT = 20
VIT = {"image_size": 32, "layers": 2, "width": 48, "head_width": 12, "mlp_ratio": 2.7, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [2, 1, 3, 1], "width": 16, "head_width": 32, "patch_size": None}


def model_cfg(vision: dict[str, Any], **more: Any) -> dict[str, Any]:
    vocabulary, _ = tiny.clip_vocabulary()
    text = {"context_length": CONTEXT, "vocab_size": len(vocabulary), "width": 32, "heads": 4, "layers": 2}
    return {"embed_dim": 24, "vision_cfg": dict(vision), "text_cfg": text, **more}


def peer_model(open_clip: ModuleType, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = tiny.shaken(open_clip.CLIP(**json.loads(json.dumps(settings))))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.2)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    size = settings["vision_cfg"]["image_size"]
    open_clip.model.set_model_preprocess_cfg(
        model, {"size": size, "mean": (0.4, 0.5, 0.6), "std": (0.3, 0.2, 0.25), "interpolation": "bicubic"}
    )
    return model


def written(open_clip: ModuleType, folder: Path, model: Any, settings: dict[str, Any]) -> Path:
    """A folder as open_clip's own code puts it on the Hub."""
    importlib.import_module(f"{open_clip.__name__}.push_to_hf_hub").save_for_hf(
        model, tiny.clip_tokenizer(CONTEXT), settings, str(folder), safe_serialization=True
    )
    return folder


@torch.no_grad()
def assert_same_model(open_clip: ModuleType, ours: Model, peer: Any) -> None:
    """Embeddings, logits and loss, with each side's own tokens and pixels that open_clip made."""
    assert isinstance(ours, clip.CLIP)
    photos = tiny.photos()[: len(tiny.CAPTIONS)]
    show = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**peer.visual.preprocess_cfg), False
    )
    pixels = torch.stack([show(tiny.rgb(one)) for one in photos])
    images = ours.processor.images([Image(one) for one in photos])
    tokens = ours.processor.texts(tiny.CAPTIONS)
    padded = torch.zeros(len(tokens), CONTEXT, dtype=torch.long)
    padded[:, : tokens.ids_BT.shape[1]] = tokens.ids_BT
    image_ND, text_ND, scale = peer(pixels, padded)
    tiny.assert_near(images.pixels, pixels)
    tiny.assert_near(ours.image_head(ours.vision(images)), peer.encode_image(pixels))
    tiny.assert_near(ours.text_head(ours.text(tokens)), peer.encode_text(padded))
    tiny.assert_near(ours.encode_images(images), image_ND)
    tiny.assert_near(ours.encode_texts(tokens), text_ND)
    tiny.assert_near(ours.log_scale.exp(), scale)
    loss = ours.losses(Batch(tuple(map(str, photos)), images, tokens))["contrastive"]
    tiny.assert_near(loss, open_clip.ClipLoss()(image_ND, text_ND, scale))


@pytest.mark.parametrize("vision", [VIT, {**VIT, "image_size": 30, "layers": 1, "head_width": 24}, RESNET])
@pytest.mark.parametrize("quick_gelu", [True, False])
def test_parity(vision: dict[str, Any], quick_gelu: bool, tmp_path: Path) -> None:
    open_clip = peers.open_clip()
    settings = model_cfg(vision, quick_gelu=quick_gelu)
    peer = peer_model(open_clip, settings)
    ours = adapter.load(written(open_clip, tmp_path, peer, settings))
    assert ours.processor.image.mean == (0.4, 0.5, 0.6)
    assert_same_model(open_clip, ours, peer)


def test_activations_and_norms_of_other_kinds(tmp_path: Path) -> None:
    open_clip = peers.open_clip()
    more = {"norm_kwargs": {"eps": 1e-3}, "act_kwargs": {"approximate": "tanh"}}
    settings = model_cfg({**VIT, **more})
    settings["text_cfg"] |= more
    peer = peer_model(open_clip, settings)
    assert_same_model(open_clip, adapter.load(written(open_clip, tmp_path, peer, settings)), peer)


@pytest.mark.parametrize("vision", [VIT, RESNET])
def test_what_we_write_open_clip_reads_and_computes(vision: dict[str, Any], tmp_path: Path) -> None:
    open_clip = peers.open_clip()
    settings = model_cfg(vision)
    ours = adapter.load(written(open_clip, tmp_path / "theirs", peer_model(open_clip, settings), settings))
    adapter.save(ours, tmp_path / "ours")
    peer, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'ours'}")
    assert_same_model(open_clip, ours, peer.eval())


def own_model(vision: vit.Config | resnet.Config, act: Activation = "gelu_tanh") -> clip.CLIP:
    """A model that never was anything but ours, with a tokenizer learned by us."""
    torch.manual_seed(3)
    text = transformer.Config(320, CONTEXT, 48, 2, 4, 97, act=act, epsilon=1e-6)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    image = ImageTransform(vision.image_size, interpolation="bilinear", mean=mean, std=std, centre="even")
    tokenizer = Tokenizer(learn_tokenizer(tiny.CAPTIONS, 320), TextTransform(context=CONTEXT))
    return tiny.shaken(clip.CLIP(clip.Config(vision, text, 16), PairProcessor(image, tokenizer)))


OWN_VIT = vit.Config(32, 8, 48, 2, 4, 131, act="gelu_tanh", epsilon=1e-6)
OWN_RESNET = resnet.Config(64, 16, (1, 2, 1, 1), 8)


@pytest.mark.parametrize("vision", [OWN_VIT, OWN_RESNET])
def test_a_model_of_our_own_goes_to_open_clip_and_back(vision: Any, tmp_path: Path) -> None:
    open_clip = peers.open_clip()
    ours = own_model(vision)
    adapter.save(ours, tmp_path)
    peer, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    assert_same_model(open_clip, ours, peer.eval())
    again = adapter.load(tmp_path)
    assert again.config == ours.config
    assert again.processor.image == ours.processor.image
    assert all(torch.equal(again.state_dict()[name], value) for name, value in ours.state_dict().items())
    captions = list(tiny.CAPTIONS)
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(captions)
    with torch.no_grad():
        tiny.assert_near(ours.embed_texts(captions), peer.encode_text(tokens, normalize=True))


def test_our_round_trip_needs_nobody(tmp_path: Path) -> None:
    for name, vision in (("vit", OWN_VIT), ("resnet", OWN_RESNET)):
        ours = own_model(vision)
        adapter.save(ours, tmp_path / name)
        again = adapter.load(tmp_path / name)
        assert again.config == ours.config
        photos = [Image(one) for one in tiny.photos(1)]
        assert torch.equal(again.embed_images(photos), ours.embed_images(photos))
        assert torch.equal(again.embed_texts(tiny.CAPTIONS), ours.embed_texts(tiny.CAPTIONS))


def test_an_end_mark_within_the_vocabulary_is_read_by_its_id(tmp_path: Path) -> None:
    """The highest id is another one's: the folder then says pool_type eos."""
    open_clip = peers.open_clip()
    ours = own_model(OWN_VIT)
    tokenizer = Tokenizer(learn_tokenizer(tiny.CAPTIONS, 310), TextTransform(context=CONTEXT))
    tokenizer.backend.add_tokens(["dog"])
    ours.processor = PairProcessor(ours.processor.image, tokenizer)
    adapter.save(ours, tmp_path)
    text_cfg = json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert text_cfg["pool_type"] == "eos"
    peer, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    assert_same_model(open_clip, ours, peer.eval())
    assert adapter.load(tmp_path).config == ours.config
    settings = json.loads((tmp_path / "open_clip_config.json").read_text())
    settings["model_cfg"]["text_cfg"]["pool_type"] = "argmax"
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="open_clip reads texts at the token"):
        adapter.load(tmp_path)


def test_tokens_with_the_real_vocabulary(tmp_path: Path) -> None:
    """OpenAI's 49,408 tokens, which open_clip ships with, as vocab.json and merges.txt, on 1,000 real captions."""
    open_clip = peers.open_clip()
    peer = open_clip.SimpleTokenizer()
    renamed = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {renamed.get(token, token): at for token, at in peer.encoder.items()}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = sorted(peer.bpe_ranks, key=lambda pair: peer.bpe_ranks[pair])
    (tmp_path / "merges.txt").write_text("\n".join(f"{left} {right}" for left, right in merges), encoding="utf-8")
    ours = read_tokenizer(CheckpointFolder(tmp_path), 77, 49_408)
    (tmp_path / "archive").mkdir()
    shutil.copy(Path(str(open_clip.__file__)).parent / byte_pairs.ARCHIVE, tmp_path / "archive")
    archived = read_tokenizer(CheckpointFolder(tmp_path / "archive"), 77, 49_408)
    assert archived.backend.to_str() == ours.backend.to_str()  # the archive of the package holds as much
    rows = (shared_data("flickr8k") / "captions.jsonl").read_text().splitlines()[:200]
    captions = [caption for row in rows for caption in json.loads(row)["captions"]]
    captions += [*tiny.CAPTIONS, "a very long caption " * 30]
    tokens, expected = ours(captions), peer(captions)
    assert tokens.lengths_B.max() == 77
    assert ours.is_cut(captions[-1])
    for ids, length, row in zip(tokens.ids_BT, tokens.lengths_B, expected, strict=True):
        assert ids[:length].tolist() == row[:length].tolist()
        assert length == row.argmax() + 1


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
@pytest.mark.parametrize(("mode", "fill"), [("shortest", 0), ("squash", 0), ("longest", 0), ("longest", 200)])
def test_pixels(mode: str, fill: int, interpolation: str) -> None:
    """Photos of odd sizes, made by open_clip and by us from one preprocess_cfg."""
    open_clip = peers.open_clip()
    entries = {"size": 61, "resize_mode": mode, "interpolation": interpolation, "fill_color": fill}
    show = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**entries), False)
    ours = read_pixels(entries, 61, "here")
    rests = set()
    for file in tiny.photos(12):
        picture = tiny.rgb(file)
        rests.add((int(61 * max(picture.size) / min(picture.size)) - 61) % 4)
        torch.testing.assert_close(ours(Image(file)), show(picture), atol=1e-5, rtol=0)
    assert 3 in rests  # where torchvision, unlike transformers, rounds up
    if interpolation != "random":
        assert read_pixels(write_pixels(ours), 61, "here") == ours


def test_a_picture_smaller_than_its_crop_is_framed_in_black() -> None:
    """As the peers do, each in its own way."""
    open_clip = peers.open_clip()
    file = tiny.photos(1)[0]
    crop = open_clip.transform.CenterCropOrPad(301)
    for size in ((200, 330), (330, 200), (200, 210), (301, 200)):
        picture = tiny.rgb(file).resize(size)
        made = ImageTransform(301, "none", centre="even").pixels_uint8(Image(np.asarray(picture)))
        assert np.array_equal(made, np.asarray(crop(picture)))


def test_odd_files(tmp_path: Path) -> None:
    """Weights of parallel training, in half precision, pickled as tensors alone, with OpenAI's constants beside."""
    ours = own_model(OWN_VIT)
    adapter.save(ours, tmp_path)
    state = load_file(tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_model.safetensors").unlink()
    state = {f"module.{name}": value.half() for name, value in state.items()}
    state["module.logit_scale"] = state["module.logit_scale"].reshape(1)
    state["input_resolution"] = torch.tensor(32)
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "open_clip_pytorch_model.bin")
    again = adapter.load(tmp_path)
    for name, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.half().float()), name


def test_every_wrong_tensor_is_named(tmp_path: Path) -> None:
    adapter.save(own_model(OWN_RESNET), tmp_path)
    file = tmp_path / "open_clip_model.safetensors"
    state = load_file(file)
    del state["visual.bn1.running_mean"]
    state["visual.layer9.weight"] = torch.zeros(2)
    state["text_projection"] = torch.zeros(16, 48)
    state["transformer.resblocks.0.attn.in_proj_weight"] = torch.zeros(48, 48)
    save_file(state, file)
    with pytest.raises(CheckpointError) as caught:
        adapter.load(tmp_path)
    assert "missing: visual.bn1.running_mean (8,); unexpected: visual.layer9.weight (2,)" in str(caught.value)
    assert "in_proj_weight (48, 48) instead of (144, 48)" in str(caught.value)
    assert "text_projection (16, 48) instead of (48, 16)" in str(caught.value)


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        (
            "vision_cfg",
            "timm_model_name",
            "vit_base",
            "timm_model_name is 'vit_base', which we cannot follow; only None",
        ),
        ("vision_cfg", "pool_type", "avg", "only 'tok' is known"),
        ("vision_cfg", "colour", "blue", "vision_cfg: colour is 'blue'"),
        ("vision_cfg", "image_size", [32, 64], "image_size: expected int"),
        ("text_cfg", "no_causal_mask", True, "no_causal_mask is True"),
        ("text_cfg", "context_length", 21, r"positional_embedding \(20, 48\) instead of \(21, 48\)"),
        ("", "custom_text", True, "custom_text is True"),
    ],
)
def test_settings_that_we_cannot_follow_are_refused(
    place: str, key: str, value: Any, message: str, tmp_path: Path
) -> None:
    adapter.save(own_model(OWN_VIT), tmp_path)
    file = tmp_path / "open_clip_config.json"
    settings = json.loads(file.read_text())
    (settings["model_cfg"][place] if place else settings["model_cfg"])[key] = value
    file.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=message):
        adapter.load(tmp_path)


def test_settings_that_change_nothing_are_accepted(tmp_path: Path) -> None:
    ours = own_model(OWN_VIT)
    adapter.save(ours, tmp_path)
    file = tmp_path / "open_clip_config.json"
    settings = json.loads(file.read_text())
    settings["model_cfg"]["vision_cfg"] |= {"patch_dropout": 0, "qk_norm": False, "ls_init_value": None}
    settings["model_cfg"]["text_cfg"] |= {"tokenizer_kwargs": {}, "pad_id": 5}
    settings["preprocess_cfg"] |= {"mode": "RGB", "fill_color": 0, "size": [32, 32]}
    file.write_text(json.dumps(settings))
    assert adapter.load(tmp_path).config == ours.config


def test_models_that_open_clip_lacks_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="quick_gelu in both towers or in none"):
        adapter.save(own_model(OWN_VIT, act="quick_gelu"), tmp_path)
    with pytest.raises(CheckpointError, match="a ViT with pool: class"):
        adapter.save(own_model(vit.Config(32, 8, 48, 1, 4, 96, pool="mean", act="gelu")), tmp_path)
    processor = own_model(OWN_VIT).processor
    towers = vit.Config(32, 8, 32, 1, 4, 64, pool="map"), transformer.Config(320, CONTEXT, 32, 1, 4, 64, causal=False)
    with pytest.raises(CheckpointError, match="no such vision tower of a SigLIP"):
        adapter.save(siglip.SigLIP(siglip.Config(*towers), processor), tmp_path)
    with pytest.raises(CheckpointError, match="causal"):
        adapter.save(clip.CLIP(clip.Config(OWN_VIT, towers[1], 16), processor), tmp_path)
    padded = own_model(OWN_VIT)
    padded.processor = PairProcessor(ImageTransform(32, "pad"), padded.processor.tokenizer)
    with pytest.raises(CheckpointError, match="cannot resize pictures by pad"):
        adapter.save(padded, tmp_path)
    assert not list(tmp_path.iterdir())


def test_pictures_that_the_model_does_not_see_are_refused(tmp_path: Path) -> None:
    adapter.save(own_model(OWN_VIT), tmp_path)
    file = tmp_path / "open_clip_config.json"
    settings = json.loads(file.read_text())
    settings["preprocess_cfg"]["size"] = 64
    file.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="makes pictures of 64 pixels, but the model sees 32"):
        adapter.load(tmp_path)
