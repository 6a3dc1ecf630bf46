"""SigLIP checkpoints of transformers: what we read computes what transformers computes, and the other way about."""

import json
import re
import string
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from chiasm.data.batch import Batch
from chiasm.data.image import Image
from chiasm.data.processor import PairProcessor
from chiasm.data.tokenizer import TextTransform, Tokenizer, learn_tokenizer
from chiasm.data.transforms import ImageTransform
from chiasm.errors import CheckpointError
from chiasm.models import clip, siglip
from chiasm.nn.image_towers import vit
from chiasm.nn.text_towers import transformer
from chiasm.weights import transformers as hub
from tests.shared_data import shared_data
from tests.weights import tiny
from tests.weights.shaking import shaken

CONTEXT = 16


def unigram() -> tokenizers.Tokenizer:
    """A tokenizer laid out as SigLIP's: unigrams, "</s>" ends texts and pads them."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    backend.train_from_iterator(
        [canonical(one) for one in tiny.CAPTIONS],
        trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return backend


def canonical(text: str) -> str:
    """big_vision's canonicalize_text, by which SigLIP's training captions were made."""
    return re.sub(r"\s+", " ", text.lower().translate(str.maketrans("", "", string.punctuation))).strip()


def written(folder: Path, model: transformers.SiglipModel) -> Path:
    """A checkpoint laid out as published ones are: SiglipTokenizer's settings beside a tokenizer.json."""
    side = model.config.vision_config.image_size
    model.save_pretrained(folder)
    unigram().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "SiglipTokenizer",
                "model_max_length": CONTEXT,
                "do_lower_case": True,
                "pad_token": {"content": "</s>"},
                "model_input_names": ["input_ids"],
            }
        )
    )
    transformers.SiglipImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return folder


@torch.no_grad()
def assert_same_model(
    ours: siglip.SigLIP, peer: transformers.SiglipModel, folder: Path, texts: list[str], file: Path
) -> None:
    """Towers, embeddings, logits and loss. texts: as `file`, a tokenizer.json, is to be given them by transformers."""
    pictures = tiny.photos()[: len(texts)]
    pixels = transformers.SiglipImageProcessorPil.from_pretrained(folder)(
        [tiny.rgb(one) for one in pictures], return_tensors="pt"
    )["pixel_values"]
    pad = json.loads((folder / "tokenizer_config.json").read_text())["pad_token"]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(file), pad_token=pad if isinstance(pad, str) else pad["content"]
    )
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt")["input_ids"]
    expected = peer(input_ids=ids, pixel_values=pixels, return_loss=True)
    images, tokens = ours.processor.images([Image(one) for one in pictures]), ours.processor.texts(tiny.CAPTIONS)
    assert torch.equal(tokens.ids_BT, ids)
    vision = peer.vision_model(pixels)
    tiny.assert_near(ours.vision(images), vision.pooler_output)
    tiny.assert_near(ours.vision.tokens(images), vision.last_hidden_state)
    tiny.assert_near(ours.text.tokens(tokens), peer.text_model(ids).last_hidden_state)
    image_ND, text_ND = ours.encode_images(images), ours.encode_texts(tokens)
    tiny.assert_near(image_ND, expected.image_embeds)
    tiny.assert_near(text_ND, expected.text_embeds)
    logits = ours.log_scale.exp() * image_ND @ text_ND.T + ours.bias
    tiny.assert_near(logits, expected.logits_per_image)
    loss = ours.losses(Batch(tuple(map(str, pictures)), images, tokens))["sigmoid"]
    tiny.assert_near(loss, expected.loss)


def loaded(folder: Path) -> siglip.SigLIP:
    model = hub.load(folder)
    assert isinstance(model, siglip.SigLIP)
    return model


@pytest.mark.parametrize("act", ["gelu_pytorch_tanh", "gelu"])
@pytest.mark.parametrize(("image_size", "patch", "width"), [(32, 8, 32), (40, 14, 48)])
def test_parity(act: str, image_size: int, patch: int, width: int, tmp_path: Path) -> None:
    """40 is no multiple of 14, as 384 is not in the published so400m."""
    peer = tiny.siglip_model(act, image_size, patch, width)
    folder = written(tmp_path, peer)
    texts = [canonical(one) for one in tiny.CAPTIONS]
    assert_same_model(loaded(folder), peer, folder, texts, folder / "tokenizer.json")


def test_what_we_write_transformers_reads_and_computes(tmp_path: Path) -> None:
    ours = loaded(written(tmp_path / "theirs", tiny.siglip_model()))
    hub.save(ours, tmp_path / "ours")
    peer, report = transformers.SiglipModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values()), report
    # The canonical form is part of the tokenizer that we write: transformers is given the captions as they are.
    assert_same_model(ours, peer.eval(), tmp_path / "ours", list(tiny.CAPTIONS), tmp_path / "ours" / "tokenizer.json")
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")(
        list(tiny.CAPTIONS), padding="max_length", truncation=True, return_tensors="pt"
    )
    assert tokens.keys() == {"input_ids"}  # no mask, by which transformers would hide the padding
    assert torch.equal(tokens["input_ids"], ours.processor.texts(tiny.CAPTIONS).ids_BT)


def test_a_model_of_our_own_goes_to_transformers_and_back(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = siglip.Config(
        vit.Config(24, 8, 32, 2, 4, 72, pool="map", act="gelu_tanh", pre_norm=False, epsilon=1e-6),
        transformer.Config(320, CONTEXT, 48, 2, 4, 96, causal=False, act="gelu_tanh", epsilon=1e-6),
    )
    rules = TextTransform(context=CONTEXT, padding="context")
    image = ImageTransform(size=24, resize="squash", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    tokenizer = Tokenizer(learn_tokenizer(tiny.CAPTIONS, 320), rules)
    ours = shaken(siglip.SigLIP(config, PairProcessor(image, tokenizer)))
    hub.save(ours, tmp_path)
    peer = transformers.SiglipModel.from_pretrained(tmp_path).eval()
    assert_same_model(ours, peer, tmp_path, list(tiny.CAPTIONS), tmp_path / "tokenizer.json")
    again = loaded(tmp_path)
    assert again.config == ours.config
    assert again.processor.image == image
    assert again.processor.tokenizer.rules == rules
    assert all(torch.equal(again.state_dict()[name], value) for name, value in ours.state_dict().items())


def test_texts_become_canonical(tmp_path: Path) -> None:
    tokenizer = loaded(written(tmp_path, tiny.siglip_model())).processor.tokenizer
    assert tokenizer.backend.normalizer.normalize_str("  It's [ALL]\n\t_the_ same-ness!?  ") == "its all the sameness"
    ids = tokenizer(["Dog!", "dog"]).ids_BT
    assert torch.equal(ids[0], ids[1])
    assert ids.shape == (2, CONTEXT)
    assert set(ids[0, -8:].tolist()) == {1}  # padded with the end mark, all the way


def test_case_is_kept_where_the_checkpoint_says_so(tmp_path: Path) -> None:
    folder = written(tmp_path, tiny.siglip_model())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": False}))
    normalizer = loaded(folder).processor.tokenizer.backend.normalizer
    assert normalizer.normalize_str("A Dog!") == "A Dog"


def test_the_sentencepiece_file_gives_the_tokens_of_sentencepiece(tmp_path: Path) -> None:
    """transformers 5 writes SigLIP's tokenizer as a spiece.model alone."""
    reason = "needs it: `make test` installs the packages of peers.txt"
    sentencepiece = pytest.importorskip("sentencepiece", reason=reason)
    pytest.importorskip("google.protobuf", reason=reason)
    rows = (shared_data("flickr8k") / "captions.jsonl").read_text().splitlines()[:60]
    captions = [caption for row in rows for caption in json.loads(row)["captions"]] + list(tiny.CAPTIONS)
    (tmp_path / "texts").write_text("\n".join(canonical(one) for one in captions))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "texts"),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=300,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    folder = written(tmp_path / "model", tiny.siglip_model())
    (folder / "tokenizer.json").unlink()
    (tmp_path / "spiece.model").rename(folder / "spiece.model")
    ours = loaded(folder).processor.tokenizer
    peer = transformers.SiglipTokenizer(str(folder / "spiece.model"), model_max_length=CONTEXT)
    captions += ["", "  ", "unseen \u4f60\u597d letters", "\ufb01ne \uff21\uff22 \u00bd", "a▁b"]
    expected = peer(captions, padding="max_length", truncation=True)["input_ids"]
    assert ours(captions).ids_BT.tolist() == expected
    assert any(row[-2] != 1 for row in expected)  # some fill the context
    peer.save_pretrained(folder)
    assert not (folder / "tokenizer.json").exists()
    assert loaded(folder).processor.tokenizer(captions).ids_BT.tolist() == expected
    (folder / "spiece.model").write_bytes((folder / "spiece.model").read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="not a sentencepiece model that can be read"):
        loaded(folder)


def test_what_transformers_would_compute_otherwise_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "short", tiny.siglip_model())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 9}))
    with pytest.raises(CheckpointError, match="pads texts to 9 tokens, but the model reads 16"):
        hub.load(folder)
    folder = written(tmp_path / "bare", tiny.siglip_model())
    settings = json.loads((folder / "config.json").read_text())
    settings["vision_config"]["vision_use_head"] = False
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="vision_use_head is false"):
        hub.load(folder)


def test_padding_with_an_ordinary_token_is_not_written(tmp_path: Path) -> None:
    ours = loaded(written(tmp_path / "theirs", tiny.siglip_model()))
    rules = TextTransform(CONTEXT, pad_id=7, padding="context")
    ours.processor = PairProcessor(ours.processor.image, Tokenizer(ours.processor.tokenizer.backend, rules))
    with pytest.raises(CheckpointError, match="pad_id 7 is not a special token"):
        hub.save(ours, tmp_path / "ours")


def test_a_family_is_not_written_as_another(tmp_path: Path) -> None:
    ours = loaded(written(tmp_path / "theirs", tiny.siglip_model()))
    odd = clip.CLIP(clip.Config(ours.config.vision, ours.config.text, 16), ours.processor)
    with pytest.raises(CheckpointError, match="a ViT with pool: class and pre_norm: True"):
        hub.save(odd, tmp_path / "ours")
