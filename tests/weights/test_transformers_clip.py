"""CLIP checkpoints of transformers: what we read computes what transformers computes, and the other way about."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import chiasm
from chiasm.data.batch import Batch
from chiasm.data.image import Image
from chiasm.data.processor import PairProcessor
from chiasm.data.tokenizer import TextTransform, Tokenizer, learn_tokenizer
from chiasm.data.transforms import ImageTransform
from chiasm.errors import CheckpointError
from chiasm.models import clip
from chiasm.nn.image_towers import resnet, vit
from chiasm.nn.text_towers import transformer
from chiasm.weights import transformers as hub
from tests.shared_data import shared_data
from tests.weights import tiny


def written(folder: Path, model: transformers.CLIPModel) -> Path:
    """A checkpoint written by nothing but transformers."""
    vision, text = model.config.vision_config, model.config.text_config
    side = vision.image_size
    model.save_pretrained(folder)
    tiny.clip_tokenizer(text.max_position_embeddings).save_pretrained(folder)
    transformers.CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    ).save_pretrained(folder)
    return folder


def peer_batch(folder: Path, context: int, pictures: list[Path]) -> dict[str, torch.Tensor]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = list(tiny.CAPTIONS[: len(pictures)])
    processor = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    pixels = processor([tiny.rgb(one) for one in pictures], return_tensors="pt")
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=context, return_tensors="pt")
    return {**pixels, **tokens}


def our_batch(model: clip.CLIP, pictures: list[Path]) -> Batch:
    texts = model.processor.texts(tiny.CAPTIONS[: len(pictures)])
    return Batch(tuple(map(str, pictures)), model.processor.images([Image(one) for one in pictures]), texts)


@torch.no_grad()
def assert_same_model(ours: clip.CLIP, peer: transformers.CLIPModel, folder: Path) -> None:
    """Towers, embeddings, logits and loss, from photos and captions through each side's own preprocessing."""
    pictures = tiny.photos()[: len(tiny.CAPTIONS)]
    theirs = peer_batch(folder, peer.config.text_config.max_position_embeddings, pictures)
    expected, batch = peer(**theirs, return_loss=True), our_batch(ours, pictures)
    assert batch.images is not None
    assert batch.texts is not None
    tiny.assert_near(ours.vision(batch.images), peer.vision_model(theirs["pixel_values"]).pooler_output)
    mlp_width = peer.vision_model(theirs["pixel_values"]).last_hidden_state
    tiny.assert_near(ours.vision.tokens(batch.images), peer.vision_model.post_layernorm(mlp_width))
    peer_text = peer.text_model(theirs["input_ids"], theirs.get("attention_mask"))
    tiny.assert_near(ours.text(batch.texts), peer_text.pooler_output)
    image_ND, text_ND = ours.encode_images(batch.images), ours.encode_texts(batch.texts)
    tiny.assert_near(image_ND, expected.image_embeds)
    tiny.assert_near(text_ND, expected.text_embeds)
    tiny.assert_near(ours.log_scale.exp() * image_ND @ text_ND.T, expected.logits_per_image)
    tiny.assert_near(ours.losses(batch)["contrastive"], expected.loss)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def test_each_activation_computes_what_transformers_computes(act: str, tmp_path: Path) -> None:
    peer = tiny.clip_model(act)
    ours = hub.load(written(tmp_path, peer))
    assert isinstance(ours, clip.CLIP)
    assert_same_model(ours, peer, tmp_path)


def test_bf16_rounds_no_more_than_transformers_does(tmp_path: Path) -> None:
    exact, pictures = tiny.clip_model(), tiny.photos()[: len(tiny.CAPTIONS)]
    ours = chiasm.load(written(tmp_path, exact), precision="bf16")
    theirs = transformers.CLIPModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    batch = peer_batch(tmp_path, exact.config.text_config.max_position_embeddings, pictures)
    assert isinstance(ours, clip.CLIP)
    with torch.no_grad():
        wanted, rounded = exact(**batch), theirs(**batch)
        images = ours.embed_images([Image(one) for one in pictures])
        texts = ours.embed_texts(tiny.CAPTIONS[: len(pictures)])
    for found, by_theirs, exactly in (
        (images, rounded.image_embeds, wanted.image_embeds),
        (texts, rounded.text_embeds, wanted.text_embeds),
    ):
        assert 0 < (found - exactly).square().mean() <= 1.2 * (by_theirs - exactly).square().mean()


@pytest.mark.parametrize(
    "shape",
    [
        {"image_size": 42, "patch": 14, "width": 40, "layers": 3, "context": 12},
        {"image_size": 30, "patch": 8, "width": 48, "layers": 1, "context": 77},  # 30 is no multiple of 8
    ],
)
def test_other_sizes(shape: dict[str, Any], tmp_path: Path) -> None:
    peer = tiny.clip_model(**shape)
    ours = hub.load(written(tmp_path, peer))
    assert isinstance(ours, clip.CLIP)
    assert_same_model(ours, peer, tmp_path)


def test_the_activation_matters(tmp_path: Path) -> None:
    """The two activations are close; parity at 1e-5 would still tell them apart."""
    folder = written(tmp_path, tiny.clip_model("quick_gelu"))
    settings = json.loads((folder / "config.json").read_text())
    right = hub.load(folder)
    for tower in ("vision_config", "text_config"):
        settings[tower]["hidden_act"] = "gelu"
    (folder / "config.json").write_text(json.dumps(settings))
    wrong = hub.load(folder)
    assert isinstance(right, clip.CLIP)
    assert isinstance(wrong, clip.CLIP)
    texts = list(tiny.CAPTIONS)
    assert (right.embed_texts(texts) - wrong.embed_texts(texts)).abs().max() > 1e-3


def test_what_we_write_transformers_reads_and_computes(tmp_path: Path) -> None:
    ours = hub.load(written(tmp_path / "theirs", tiny.clip_model()))
    assert isinstance(ours, clip.CLIP)
    hub.save(ours, tmp_path / "ours")
    peer, report = transformers.CLIPModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    assert_same_model(ours, peer.eval(), tmp_path / "ours")


def own_model(vocabulary: int = 320) -> clip.CLIP:
    """A model that never was anything but ours, with a tokenizer learned by us."""
    torch.manual_seed(3)
    config = clip.Config(
        vit.Config(32, 8, 32, 2, 4, 64, act="gelu", epsilon=1e-6),
        transformer.Config(vocabulary, 24, 48, 2, 4, 96, act="gelu_tanh", epsilon=1e-6),
        width=16,
    )
    image = ImageTransform(size=32, interpolation="bilinear", mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    tokenizer = Tokenizer(learn_tokenizer(tiny.CAPTIONS, vocabulary), TextTransform(context=24))
    return tiny.shaken(clip.CLIP(config, PairProcessor(image, tokenizer)))


def test_a_model_of_our_own_goes_to_transformers_and_back(tmp_path: Path) -> None:
    ours = own_model()
    hub.save(ours, tmp_path)
    peer = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    assert_same_model(ours, peer, tmp_path)
    again = hub.load(tmp_path)
    assert isinstance(again, clip.CLIP)
    assert again.config == ours.config
    assert again.processor.image == ours.processor.image
    assert again.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in ours.state_dict().items())
    texts = list(tiny.CAPTIONS)
    assert torch.equal(again.embed_texts(texts), ours.embed_texts(texts))


def test_the_models_context_cuts_where_the_tokenizer_does_not(tmp_path: Path) -> None:
    """Tokenizers without a limit of their own say so with a number beyond all bounds."""
    folder = edited(written(tmp_path, tiny.clip_model()), "tokenizer_config.json", {"model_max_length": int(1e30)})
    ours = hub.load(folder)
    assert isinstance(ours, clip.CLIP)
    assert ours.processor.texts(tiny.CAPTIONS).ids_BT.shape == (len(tiny.CAPTIONS), 20)


def test_the_tokenizer_that_we_write_leaves_the_length_to_its_settings(tmp_path: Path) -> None:
    hub.save(own_model(), tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["truncation"] is None
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == 24
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path)(tiny.CAPTIONS[-1])["input_ids"]) > 24


def test_the_processor_of_transformers_reads_our_folder(tmp_path: Path) -> None:
    ours = own_model()
    hub.save(ours, tmp_path)
    processor = transformers.CLIPProcessor.from_pretrained(tmp_path)
    photo = tiny.photos(1)[0]
    given = processor(text=["two dogs"], images=tiny.rgb(photo), return_tensors="pt")
    level = 1 / 255 / 0.2  # it uses torchvision where that is present, which rounds otherwise
    torch.testing.assert_close(
        given["pixel_values"], ours.processor.images([Image(photo)]).pixels, atol=level + 1e-5, rtol=0
    )
    assert torch.equal(given["input_ids"], ours.processor.texts(["two dogs"]).ids_BT)


def test_it_is_read_where_transformers_5_keeps_its_processor(tmp_path: Path) -> None:
    """CLIPProcessor writes one processor_config.json; a preprocessor_config.json beside it would be stale."""
    folder = written(tmp_path, tiny.clip_model())
    processor = transformers.CLIPProcessor(
        transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], resample=2
        ),
        tiny.clip_tokenizer(20),
    )
    processor.save_pretrained(folder)
    ours = hub.load(folder)
    assert isinstance(ours, clip.CLIP)
    assert ours.processor.image.mean == (0.1, 0.2, 0.3)
    assert ours.processor.image.interpolation == "bilinear"


@pytest.mark.parametrize("eos", [2, None])
def test_texts_are_read_where_transformers_reads_them(eos: int | None, tmp_path: Path) -> None:
    """Old files say eos_token_id 2 and mean the highest id; new ones name the end mark. The last caption is cut."""
    peer = tiny.clip_model()
    peer.config.text_config.eos_token_id = peer.text_model.eos_token_id = eos or peer.text_model.eos_token_id
    ours = hub.load(written(tmp_path, peer))
    assert isinstance(ours, clip.CLIP)
    assert ours.processor.tokenizer.is_cut(tiny.CAPTIONS[-1])
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path)(
        list(tiny.CAPTIONS), padding="max_length", truncation=True, max_length=20, return_tensors="pt"
    )
    with torch.no_grad():
        expected = peer.get_text_features(**tokens).pooler_output
    tiny.assert_near(ours.embed_texts(list(tiny.CAPTIONS)), torch.nn.functional.normalize(expected, dim=-1))


def test_an_end_mark_that_transformers_would_miss_is_refused(tmp_path: Path) -> None:
    """eos_token_id 2 has transformers read at the highest id, which a mark of that very id is not."""
    ours = own_model()
    backend = ours.processor.tokenizer.backend
    from tokenizers import processors

    mark = backend.id_to_token(2)
    backend.post_processor = processors.TemplateProcessing(single=f"$A {mark}", special_tokens=[(mark, 2)])
    with pytest.raises(CheckpointError, match=r"reads texts at the highest id.*ends them with 2"):
        hub.save(ours, tmp_path)


def test_tokens_from_vocab_and_merges(tmp_path: Path) -> None:
    """The oldest layout has no tokenizer.json."""
    folder = written(tmp_path, tiny.clip_model())
    vocabulary, pairs = tiny.clip_vocabulary()
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in pairs), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    ours = hub.load(folder)
    assert isinstance(ours, clip.CLIP)
    peer = tiny.clip_tokenizer(20)
    for caption in tiny.CAPTIONS:
        assert ours.processor.texts([caption]).ids_BT[0].tolist() == peer(caption, truncation=True)["input_ids"]
    ids = ours.processor.texts(["it's a dog"]).ids_BT[0]
    assert ours.processor.tokenizer.decode(ids) == peer.decode(ids, skip_special_tokens=True)


def test_tokens_of_real_captions_from_tokenizer_json(tmp_path: Path) -> None:
    file = shared_data("flickr8k") / "captions.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()[:40]]
    captions = [caption for row in rows for caption in row["captions"]]
    ours = hub.load(written(tmp_path, tiny.clip_model(context=40)))
    assert isinstance(ours, clip.CLIP)
    tokens = ours.processor.texts(captions)
    expected = tiny.clip_tokenizer(40)(captions, truncation=True)["input_ids"]
    rows_ids = [ids[:length].tolist() for ids, length in zip(tokens.ids_BT, tokens.lengths_B, strict=True)]
    assert rows_ids == expected
    assert any(len(row) == 40 for row in expected)
    assert any(len(row) < 40 for row in expected)


def test_sharded_and_halved_weights(tmp_path: Path) -> None:
    """Several files and half precision; values are those of the halved tensors, in float32."""
    peer = tiny.clip_model()
    folder = written(tmp_path, peer)
    (folder / "model.safetensors").unlink()
    peer.half().save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    ours = hub.load(folder)
    assert isinstance(ours, clip.CLIP)
    assert {value.dtype for value in ours.state_dict().values()} == {torch.float32}
    assert_same_model(ours, peer.float(), folder)
    next(folder.glob("model-*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="names the shard model-0000"):
        hub.load(folder)


def test_pickled_tensors_are_read_and_pickled_code_is_not(tmp_path: Path) -> None:
    peer = tiny.clip_model()
    folder = written(tmp_path, peer)
    (folder / "model.safetensors").unlink()
    state = peer.state_dict() | {"text_model.embeddings.position_ids": torch.arange(20)[None]}  # as old versions wrote
    torch.save(state, folder / "pytorch_model.bin")
    ours = hub.load(folder)
    assert isinstance(ours, clip.CLIP)
    assert_same_model(ours, peer, folder)
    torch.save({"weights": Path("evil")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a checkpoint of tensors alone"):
        hub.load(folder)


def test_every_wrong_tensor_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = written(tmp_path, tiny.clip_model())
    state = load_file(folder / "model.safetensors")
    del state["logit_scale"]
    state["text_projection.weight"] = torch.zeros(24, 7)
    state["text_model.encoder.layers.9.mlp.fc1.bias"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        hub.load(folder)
    message = str(caught.value)
    assert "missing: logit_scale ();" in message
    assert "unexpected: text_model.encoder.layers.9.mlp.fc1.bias (3,);" in message
    assert message.endswith("misshapen: text_projection.weight (24, 7) instead of (24, 48)")


def edited(folder: Path, name: str, edit: dict[str, Any]) -> Path:
    settings = json.loads((folder / name).read_text())
    for key, value in edit.items():
        place = settings
        *path, last = key.split(".")
        for part in path:
            place = place[part]
        place[last] = value
    (folder / name).write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("config.json", {"vision_config.hidden_act": "silu"}, r"vision_config.hidden_act: 'silu' is not a choice"),
        ("config.json", {"text_config.attention_dropout": 0.1}, r"text_config.attention_dropout: 0.1 is not a choice"),
        ("config.json", {"vision_config.num_channels": 4}, "num_channels: 4"),
        (
            "config.json",
            {"model_type": "clop"},
            r"holds a 'clop', which neither chiasm nor transformers .* knows; did you mean 'clip'\?",
        ),
        ("config.json", {"text_config.eos_token_id": 17}, "at the first 17"),
        ("config.json", {"text_config.vocab_size": 100}, "but its model only 100"),
        ("preprocessor_config.json", {"size.longest_edge": 40}, "does not make one square of every picture"),
        ("preprocessor_config.json", {"do_center_crop": False}, "does not make one square of every picture"),
        (
            "preprocessor_config.json",
            {"size": 40, "crop_size": 40},
            "makes pictures of 40 pixels, but the model sees 32",
        ),
        ("preprocessor_config.json", {"resample": 0}, "resample 0 is not known"),
        ("preprocessor_config.json", {"do_resize": False, "do_center_crop": False}, "do_resize False"),
        ("preprocessor_config.json", {"do_pad": True}, "do_pad: True is not a choice"),
        ("tokenizer_config.json", {"padding_side": "left"}, "padding_side is 'left'"),
    ],
)
def test_what_we_cannot_follow_is_refused(name: str, edit: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = edited(written(tmp_path, tiny.clip_model()), name, edit)
    with pytest.raises(CheckpointError, match=message):
        hub.load(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused(name: str, tmp_path: Path) -> None:
    folder = written(tmp_path, tiny.clip_model())
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        hub.load(folder)


def test_models_that_transformers_lacks_are_not_written(tmp_path: Path) -> None:
    processor = own_model().processor
    text = transformer.Config(320, 24, 48, 2, 4, 96)
    tower = clip.CLIP(clip.Config(resnet.Config(64, 8, (1, 1, 1, 1), 4), text, 16), processor)
    with pytest.raises(CheckpointError, match="its vision tower is a ViT with pool: class"):
        hub.save(tower, tmp_path)
    padded = own_model()
    padded.processor = PairProcessor(ImageTransform(size=32, resize="pad"), padded.processor.tokenizer)
    with pytest.raises(CheckpointError, match="do not pad pictures"):
        hub.save(padded, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        hub.save(own_model(), tmp_path / "file")
