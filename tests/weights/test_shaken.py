"""A contract for every family of foreign checkpoints: what its tests compare with was shaken, and all of it counts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers as hub
from torch import Tensor

import chiasm
from chiasm.config import module_names
from chiasm.data.sample import Sample, Text
from chiasm.models.generative import GenerativeModel, VisionLanguageModel
from chiasm.models.model import Model
from chiasm.models.pair_model import MatchingModel, PairModel
from chiasm.nn.decoder import Packed
from chiasm.weights import transformers
from tests import peers
from tests.weights import generating, pictures, test_minicpm_v, test_open_clip, test_qwen_vl, tiny, tiny_siglip2
from tests.weights import test_transformers_blip_2 as blip_2
from tests.weights import test_transformers_clip as clip
from tests.weights import test_transformers_idefics as idefics
from tests.weights import test_transformers_idefics2 as idefics2
from tests.weights import test_transformers_idefics3 as idefics3
from tests.weights import test_transformers_internvl as internvl
from tests.weights import test_transformers_kosmos_2 as kosmos_2
from tests.weights import test_transformers_language as language
from tests.weights import test_transformers_llava as llava
from tests.weights import test_transformers_llava_next as llava_next
from tests.weights import test_transformers_qwen2_vl as qwen2_vl
from tests.weights import test_transformers_siglip as siglip
from tests.weights.shaking import assert_shaken, shaken, unshaken

# What the tests of each family compare with, by the name of its module: written into a folder.
PEERS: dict[str, Callable[[Path], Any]] = {
    "blip_2": blip_2.stage2,
    "blip_2_stage1": blip_2.stage1,
    "clip": lambda folder: clip.written(folder, tiny.clip_model()),
    "idefics": idefics.peer,
    "idefics2": lambda folder: idefics2.peer(folder, split=True),
    "idefics3": lambda folder: idefics3.peer(folder, "idefics3"),
    "internvl": lambda folder: internvl.peer(folder, use_qk_norm=True),
    "kosmos_2": kosmos_2.peer,
    "llama": lambda folder: language.peer("llama", folder),
    "llava": llava.peer,
    "llava_next": llava_next.peer,
    "minicpmv": lambda folder: test_minicpm_v.Peer(folder, "2.6"),
    "mistral": lambda folder: language.peer("mistral", folder),
    "monkey": lambda folder: test_qwen_vl.Peer(folder, test_qwen_vl.MONKEY, "monkey"),
    "opt": lambda folder: language.peer("opt", folder),
    "qwen": lambda folder: test_qwen_vl.Peer(folder, test_qwen_vl.VISUAL, "qwen"),
    "qwen2": lambda folder: language.peer("qwen2", folder),
    "qwen2_vl": qwen2_vl.peer,
    "qwen3": lambda folder: language.peer("qwen3", folder),
    "siglip": lambda folder: siglip.written(folder, tiny.siglip_model()),
    "siglip2": lambda folder: tiny_siglip2.write_naflex(folder, tiny_siglip2.naflex_model()),
    "smolvlm": lambda folder: idefics3.peer(folder, "smolvlm"),
}


def test_no_family_goes_unchecked() -> None:
    assert PEERS.keys() == set(module_names(transformers.__name__))


@pytest.mark.parametrize("family", PEERS)
def test_what_is_compared_was_shaken_and_all_of_it_counts(family: str, tmp_path: Path) -> None:
    """No two tensors that could be exchanged agree, and the output follows every one that the model reads."""
    PEERS[family](tmp_path)
    model = chiasm.load(tmp_path)
    assert_shaken(model.state_dict(), f"the peer of {family}")
    output = outputs(model.double())
    torch.manual_seed(0)
    (output * torch.randn_like(output)).sum().backward()
    learns = {name: one for name, one in model.named_parameters() if one.requires_grad}
    silent = {name for name, one in learns.items() if one.grad is None or float(one.grad.abs().max()) < 1e-9}
    # One number added to all of a query's scores changes no softmax; the scale and bias of scores are no embedding's.
    silent -= {name for name in silent if name.endswith((".k.bias", "k_norm.bias")) or name in ("log_scale", "bias")}
    assert not silent


def outputs(model: Model) -> Tensor:
    """What is compared: logits after pictures and words, or embeddings of both."""
    photo, words = pictures.noise(60, 90), "What is in the picture?"
    if isinstance(model, PairModel):
        images, texts = model.processor.images([photo]), model.processor.texts([words])
        if not isinstance(model, MatchingModel):
            return torch.cat([model.encode_images(images), model.encode_texts(texts)])
        matched = model.match(model.image_states(images), texts.ids_BT, texts.mask_BT)
        found = model.encode_images(images), model.encode_texts(texts), matched
        return torch.cat([output.flatten() for output in found])
    assert isinstance(model, GenerativeModel)
    shown = (photo,) if isinstance(model, VisionLanguageModel) else ()
    batch = model.processor.prompts([Sample("a", (*shown, Text(words, role="user")))])
    if batch.images is not None:
        batch.images.pixels.data = batch.images.pixels.double()
    prompt = model.embedded(batch)
    return model.language.logits(model.language(prompt.x_TD, prompt.positions, Packed(prompt.lengths, prompt.visible)))


def test_a_peer_that_was_not_shaken_is_refused(tmp_path: Path) -> None:
    """By any test here that opens it: two norms that begin as ones may be exchanged unseen."""
    config = hub.LlavaConfig(vision_config=generating.tiny_clip(28, 14), text_config=generating.tiny_llama(400))
    clip.written(tmp_path / "clip", hub.CLIPModel(tiny.clip_model().config))
    with pytest.raises(AssertionError, match=r"vision.blocks.0.norm1.weight: 1 throughout"):
        chiasm.load(tmp_path / "clip")
    model = hub.LlavaForConditionalGeneration(config)
    found = unshaken(model.state_dict())
    projector = "model.multi_modal_projector.linear_1.bias"
    assert f"{projector}: 0 throughout" in found
    assert f"{projector}: as {projector.replace('1', '2')}" in found
    assert not unshaken(shaken(model).state_dict())


def test_open_clips_are_shaken_with_their_batch_norms(tmp_path: Path) -> None:
    open_clip = peers.open_clip()
    settings = test_open_clip.model_cfg(test_open_clip.RESNET)
    model = test_open_clip.peer_model(open_clip, settings)
    test_open_clip.written(open_clip, tmp_path, model, settings)
    (file,) = tmp_path.glob("*.safetensors")
    assert_shaken(safetensors.torch.load_file(file), "open_clip's ResNet")
