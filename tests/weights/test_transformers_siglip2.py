"""SigLIP 2 checkpoints of transformers: NaFlex, and those of one resolution with Gemma's tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import chiasm
from chiasm.data.batch import Batch, PatchImages
from chiasm.data.image import Image
from chiasm.data.patches import PatchTransform
from chiasm.data.processor import PairProcessor
from chiasm.data.tokenizer import TextTransform, Tokenizer
from chiasm.errors import CheckpointError
from chiasm.models import siglip, siglip2
from chiasm.nn.image_towers import naflex
from chiasm.nn.text_towers import transformer
from chiasm.weights import transformers as hub
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.texts import read_tokenizer
from tests.shared_data import shared_data
from tests.weights import tiny, tiny_siglip2
from tests.weights.shaking import shaken
from tests.weights.test_transformers_siglip import assert_same_model as assert_same_siglip

TEXTS = [text for text in tiny.CAPTIONS if text]


def loaded(folder: Path) -> siglip2.SigLIP2:
    model = chiasm.load(folder)
    assert isinstance(model, siglip2.SigLIP2)
    return model


@torch.no_grad()
def assert_same_model(ours: siglip2.SigLIP2, peer: transformers.Siglip2Model, folder: Path) -> None:
    """Towers, tokens, embeddings, logits and loss, from photos and captions through each side's own preprocessing."""
    photos = tiny.photos()[: len(TEXTS)]
    pixels = transformers.Siglip2ImageProcessorPil.from_pretrained(folder)(
        [tiny.rgb(one) for one in photos], return_tensors="pt"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt")["input_ids"]
    expected = peer(input_ids=ids, **pixels, return_loss=True)
    images, tokens = ours.processor.images([Image(one) for one in photos]), ours.processor.texts(TEXTS)
    assert torch.equal(tokens.ids_BT, ids)
    assert isinstance(images, PatchImages)
    assert torch.equal(images.grid_M2, pixels["spatial_shapes"])
    assert len(set(map(tuple, images.grid_M2.tolist()))) > 1  # pictures of several shapes in one batch
    made = ours.encode_image_tokens(images)
    for at, (rows, columns) in enumerate(made.grid_N2.tolist()):
        mlp_width = expected.vision_model_output.last_hidden_state[at, : rows * columns]
        tiny.assert_near(made.places(at).flatten(0, 1), mlp_width)
    words = ours.encode_text_tokens(tokens)
    tiny.assert_near(words.tokens_BTD, expected.text_model_output.last_hidden_state)
    image_ND, text_ND = ours.encode_images(images), ours.encode_texts(tokens)
    tiny.assert_near(ours.vision(images), expected.vision_model_output.pooler_output)
    tiny.assert_near(image_ND, expected.image_embeds)
    tiny.assert_near(text_ND, expected.text_embeds)
    tiny.assert_near(ours.log_scale.exp() * image_ND @ text_ND.T + ours.bias, expected.logits_per_image)
    loss = ours.losses(Batch(tuple(map(str, photos)), images, tokens))["sigmoid"]
    tiny.assert_near(loss, expected.loss)


@pytest.mark.parametrize(("patch", "positions", "patches"), [(8, 16, 24), (7, 25, 40), (16, 9, 7)])
def test_naflex_parity(patch: int, positions: int, patches: int, tmp_path: Path) -> None:
    peer = tiny_siglip2.naflex_model(patch, positions)
    folder = tiny_siglip2.write_naflex(tmp_path, peer, patches)
    assert_same_model(loaded(folder), peer, folder)


def test_naflex_goes_back_to_transformers(tmp_path: Path) -> None:
    ours = loaded(tiny_siglip2.write_naflex(tmp_path / "theirs", tiny_siglip2.naflex_model()))
    hub.save(ours, tmp_path / "ours")
    peer, report = transformers.Siglip2Model.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    assert_same_model(ours, peer.eval(), tmp_path / "ours")
    again = loaded(tmp_path / "ours")
    assert again.config == ours.config
    assert again.processor.image == ours.processor.image
    assert all(torch.equal(again.state_dict()[name], value) for name, value in ours.state_dict().items())


def test_our_own_folder_keeps_a_naflex_model(tmp_path: Path) -> None:
    from chiasm.models import folder

    ours = loaded(tiny_siglip2.write_naflex(tmp_path / "theirs", tiny_siglip2.naflex_model()))
    folder.save(ours, tmp_path / "ours")
    again = loaded(tmp_path / "ours")
    assert again.processor.image == ours.processor.image
    photos = [Image(one) for one in tiny.photos(2)]
    assert torch.equal(again.score(photos, TEXTS), ours.score(photos, TEXTS))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"resample": 3, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
        {"do_normalize": False, "rescale_factor": 1 / 127.5},
    ],
)
def test_patches_of_photos(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny_siglip2.write_naflex(tmp_path, tiny_siglip2.naflex_model(14), 60, **settings)
    peer = transformers.Siglip2ImageProcessorPil.from_pretrained(folder)
    photos = tiny.photos(8)
    expected = peer([tiny.rgb(one) for one in photos], return_tensors="pt")
    images = loaded(folder).processor.images([Image(one) for one in photos])
    assert isinstance(images, PatchImages)
    assert torch.equal(images.grid_M2, expected["spatial_shapes"])
    longest = images.pixels.shape[1]
    torch.testing.assert_close(images.pixels, expected["pixel_values"][:, :longest].float(), atol=1e-5, rtol=1e-5)
    assert not expected["pixel_attention_mask"][:, longest:].any()


def test_grids_of_any_size() -> None:
    """From slivers to posters, at several budgets: the grid of the published code."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

    draw = np.random.default_rng(0)
    for _ in range(150):
        width, height = (int(side) for side in np.exp(draw.uniform(0, 9, 2)))
        patch, most = int(draw.integers(1, 33)), int(draw.integers(1, 1025))
        rows, columns = PatchTransform(patch, most).grid(max(1, width), max(1, height))
        expected = get_image_size_for_max_num_patches(max(1, height), max(1, width), patch, most)
        assert (rows * patch, columns * patch) == expected


def test_a_picture_does_not_depend_on_its_company(tmp_path: Path) -> None:
    """What fills up a batch is never attended to."""
    ours = loaded(tiny_siglip2.write_naflex(tmp_path, tiny_siglip2.naflex_model()))
    photos = [Image(one) for one in tiny.photos()]
    alone = torch.cat([ours.embed_images([photo]) for photo in photos])
    torch.testing.assert_close(ours.embed_images(photos), alone, atol=1e-5, rtol=1e-5)
    assert ours.embed_images([]).shape == (0, 32)


def test_gradients_reach_every_tensor_but_the_keys_biases(tmp_path: Path) -> None:
    ours = loaded(tiny_siglip2.write_naflex(tmp_path, tiny_siglip2.naflex_model())).train()
    photos = [Image(one) for one in tiny.photos()[:4]]
    batch = Batch(("a", "b", "c", "d"), ours.processor.images(photos), ours.processor.texts(TEXTS[:4]))
    losses = [piece for part in batch.split(2) for name, piece in ours.losses(part).items() if name == "sigmoid"]
    torch.autograd.backward(torch.stack(losses).sum())
    silent = [name for name, p in ours.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in silent if not name.endswith("attention.k.bias")] == []


def write_fixed(folder: Path, model: transformers.SiglipModel, **tokenizer: Any) -> Path:
    side = model.config.vision_config.image_size
    model.save_pretrained(folder)
    tiny_siglip2.write_tokenizer(folder, **tokenizer)
    transformers.SiglipImageProcessorPil(
        size={"height": side, "width": side}, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder


def fixed_model() -> transformers.SiglipModel:
    return tiny.siglip_model(vocabulary=len(tiny_siglip2.gemma_vocabulary()[0]))


def test_one_resolution_is_a_siglip(tmp_path: Path) -> None:
    """Stored as SiglipModel, with Gemma's tokenizer: texts in lower case where the checkpoint says so."""
    peer = fixed_model()
    folder = write_fixed(tmp_path / "theirs", peer, kind="GemmaTokenizer", do_lower_case=True)
    ours = chiasm.load(folder)
    assert isinstance(ours, siglip.SigLIP)
    lowered = [text.lower() for text in tiny.CAPTIONS]
    assert_same_siglip(ours, peer, folder, lowered, folder / "tokenizer.json")
    hub.save(ours, tmp_path / "ours")
    again = transformers.SiglipModel.from_pretrained(tmp_path / "ours").eval()
    own = tmp_path / "ours" / "tokenizer.json"
    assert_same_siglip(ours, again, tmp_path / "ours", list(tiny.CAPTIONS), own)


def test_a_siglip2_of_one_resolution_is_written_as_a_siglip(tmp_path: Path) -> None:
    theirs = chiasm.load(write_fixed(tmp_path / "theirs", fixed_model()))
    assert isinstance(theirs, siglip.SigLIP)
    ours = siglip2.SigLIP2(siglip2.Config(theirs.config.vision, theirs.config.text), theirs.processor).eval()
    ours.load_state_dict(theirs.state_dict())
    hub.save(ours, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == "siglip"
    again = chiasm.load(tmp_path / "ours")
    assert isinstance(again, siglip.SigLIP)
    photos = [Image(one) for one in tiny.photos(1)]
    assert torch.equal(again.score(photos, TEXTS), ours.score(photos, TEXTS))


@pytest.mark.parametrize(
    ("kind", "said", "lower"),
    [
        ("Siglip2Tokenizer", {}, True),
        ("GemmaTokenizer", {}, False),
        ("GemmaTokenizerFast", {"do_lower_case": True}, True),
    ],
)
def test_tokens_are_those_of_transformers(kind: str, said: dict[str, Any], lower: bool, tmp_path: Path) -> None:
    folder = write_fixed(tmp_path, fixed_model(), kind=kind.removesuffix("Fast"), tokenizer_class=kind, **said)
    peer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [*tiny.CAPTIONS, "  two   spaces ", "Ünseen 你好"]
    given = [text.lower() for text in texts] if lower else texts
    expected = peer(given, padding="max_length", truncation=True, max_length=16)["input_ids"]
    model = chiasm.load(folder)
    assert isinstance(model, siglip.SigLIP)
    assert model.processor.texts(texts).ids_BT.tolist() == expected


@pytest.mark.parametrize("tidy", [False, True])
def test_gemmas_sentencepiece_file_gives_the_tokens_of_sentencepiece(tidy: bool, tmp_path: Path) -> None:
    """Byte pairs with bytes to fall back on; Gemma's leaves spaces as they are."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs it: `make test` installs it")
    rows = (shared_data("flickr8k") / "captions.jsonl").read_text().splitlines()[:60]
    captions = [caption.lower() for row in rows for caption in json.loads(row)["captions"]]
    (tmp_path / "texts").write_text("\n".join(captions))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "texts"),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=tidy,
        remove_extra_whitespaces=tidy,
        user_defined_symbols=[] if tidy else ["\n", "<b>"],
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        minloglevel=2,
    )
    settings = {"tokenizer_class": "GemmaTokenizer", "pad_token": "<pad>", "padding_side": "right"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    peer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    ours = read_tokenizer(CheckpointFolder(tmp_path), 64, 600)
    captions += ["", "two  spaces", " at the start", "unseen 你好 letters", "THE END"]
    captions += [] if tidy else ["a <b>tag\nand a line"]
    assert len(set(captions)) > 200
    for caption in captions:
        tokens = ours([caption])
        assert tokens.ids_BT[0, : int(tokens.lengths_B[0])].tolist() == [*peer.encode(caption)[:63], 1], caption
    assert ours.rules.pad_id == 0
    assert ours.decode(ours(["a dog"]).ids_BT[0]).strip() == "a dog"


def test_padding_on_the_left_is_refused(tmp_path: Path) -> None:
    """What transformers does with Gemma's tokenizers where nothing is said."""
    folder = write_fixed(tmp_path, fixed_model(), kind="GemmaTokenizer")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["padding_side"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert transformers.AutoTokenizer.from_pretrained(folder).padding_side == "left"
    with pytest.raises(CheckpointError, match="padding_side is 'left'"):
        chiasm.load(folder)


def test_every_wrong_tensor_is_named(tmp_path: Path) -> None:
    folder = tiny_siglip2.write_naflex(tmp_path, tiny_siglip2.naflex_model())
    state = load_file(folder / "model.safetensors")
    del state["logit_bias"]
    state["vision_model.embeddings.patch_embedding.weight"] = torch.zeros(32, 3, 8, 8)
    state["vision_model.head.more"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        chiasm.load(folder)
    told = str(caught.value)
    assert "missing: logit_bias (1,); unexpected: vision_model.head.more (3,);" in told
    assert told.endswith("patch_embedding.weight (32, 3, 8, 8) instead of (32, 192)")


@pytest.mark.parametrize(
    ("name", "key", "value", "told"),
    [
        ("preprocessor_config.json", "patch_size", 16, "makes patches of 16 pixels, but the model sees 8"),
        ("preprocessor_config.json", "do_resize", False, "do_resize: False is not a choice"),
        ("config.json", "vision_config", {"vision_use_head": False}, "vision_use_head is false"),
    ],
)
def test_what_we_cannot_follow_is_refused(name: str, key: str, value: Any, told: str, tmp_path: Path) -> None:
    folder = tiny_siglip2.write_naflex(tmp_path, tiny_siglip2.naflex_model())
    settings = json.loads((folder / name).read_text())
    settings[key] = {**settings[key], **value} if isinstance(value, dict) else value
    (folder / name).write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=told):
        chiasm.load(folder)


def test_whole_pictures_are_refused_by_a_naflex_tower(tmp_path: Path) -> None:
    from chiasm.data.transforms import ImageTransform
    from chiasm.errors import DataError, RecipeError

    ours = loaded(tiny_siglip2.write_naflex(tmp_path / "theirs", tiny_siglip2.naflex_model()))
    ours.check()
    ours.processor = PairProcessor(ImageTransform(32), ours.processor.tokenizer)
    with pytest.raises(RecipeError, match="sees patches of 8 pixels, but the processor makes whole pictures"):
        ours.check()
    with pytest.raises(DataError, match=r"set processor\.patches"):
        ours.embed_images([Image(tiny.photos(1)[0])])
    with pytest.raises(CheckpointError, match="this one makes whole pictures"):
        hub.save(ours, tmp_path / "ours")


def test_a_recipe_may_choose_patches() -> None:
    entries = {
        "tokenizer": {"learn": 300},
        "patches": {"patch": 16, "max_patches": 9},
        "text": {"context": 40, "padding": "context"},
    }
    processor = PairProcessor.from_recipe(entries, tiny.CAPTIONS)
    assert processor.image == PatchTransform(16, 9)
    model = siglip2.SigLIP2(siglip2.SIZES["small-naflex"], processor)
    model.check()
    assert model.embed_images([Image(one) for one in tiny.photos(1)[:2]]).shape == (2, 128)


def test_a_model_of_our_own_goes_to_transformers(tmp_path: Path) -> None:
    from tests.weights.tiny_siglip2 import gemma_tokenizer

    torch.manual_seed(3)
    text = transformer.Config(400, 16, 48, 2, 4, 96, causal=False, act="gelu", epsilon=1e-6)
    config = siglip2.Config(naflex.Config(10, 32, 2, 4, 72, 36, "gelu", 1e-5), text)
    gemma_tokenizer().save_pretrained(tmp_path / "tokenizer")
    tokenizer = Tokenizer.load(tmp_path / "tokenizer", TextTransform(16, padding="context"))
    image = PatchTransform(10, 30, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    ours = shaken(siglip2.SigLIP2(config, PairProcessor(image, tokenizer)))
    hub.save(ours, tmp_path / "ours")
    peer = transformers.Siglip2Model.from_pretrained(tmp_path / "ours").eval()
    assert_same_model(ours, peer, tmp_path / "ours")
