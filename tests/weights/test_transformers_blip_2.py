"""BLIP-2, both stages, against the classes of transformers, on tiny random checkpoints that those wrote."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import tokenizers
import torch
import transformers
from tokenizers import processors
from torch import Tensor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

import chiasm
from chiasm.data.image import Image
from chiasm.data.sample import Sample, Text
from chiasm.errors import CheckpointError
from chiasm.models.blip2 import BLIP2
from chiasm.models.blip2_stage1 import BLIP2Stage1
from chiasm.nn.decoder import Packed
from chiasm.weights.transformers import save
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.weights.generating import odd_photos, set_ends, vocabulary
from tests.weights.shaking import shaken

SIZE, QUERIES = 28, 5
QUESTION = "Question: What is in the picture? Answer:"
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIZE,
    "patch_size": 14,
    "initializer_range": 0.3,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-2,
}
Q_FORMER = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "initializer_range": 0.3,
    "layer_norm_eps": 1e-2,
}


def write_tokenizer(folder: Path, marks: tuple[str, ...]) -> Any:
    """A tokenizer that puts the first mark before every text, and the second, if there is one, behind it."""
    backend = tokenizers.Tokenizer.from_str(vocabulary(extra=("<image>",)))
    ids = [(mark, backend.token_to_id(mark)) for mark in marks]
    single = [marks[0], "$A", *marks[1:]]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=marks[0], eos_token=marks[-1], pad_token="<|im_start|>"
    )
    fast.save_pretrained(folder)
    return fast


def finish(model: Any, folder: Path, tokenizer: Any) -> Any:
    model.save_pretrained(folder)
    image = BlipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    made = transformers.Blip2Processor(image, tokenizer, num_query_tokens=QUERIES)
    made.save_pretrained(folder)
    return made


def stage2(folder: Path, **text: Any) -> tuple[Any, Any]:
    tokenizer = write_tokenizer(folder, ("<|endoftext|>",))
    opt = {"hidden_size": 48, "ffn_dim": 80, "num_hidden_layers": 2, "num_attention_heads": 6, "vocab_size": 416}
    config = transformers.Blip2Config(
        vision_config=VISION,
        qformer_config={**Q_FORMER, "cross_attention_frequency": 3, "num_hidden_layers": 4},  # looks in two of them
        text_config=transformers.OPTConfig(**{**opt, "init_std": 0.3, "bos_token_id": 0, "pad_token_id": 1, **text}),
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = shaken(transformers.Blip2ForConditionalGeneration(config), 0.2)
    processor = finish(model, folder, tokenizer)
    set_ends(folder, 0)
    return model, processor


def stage1(folder: Path) -> tuple[Any, Any]:
    tokenizer = write_tokenizer(folder, ("<|im_start|>", "<|im_end|>"))
    config = transformers.Blip2Config(
        vision_config=VISION,
        qformer_config={**Q_FORMER, "use_qformer_text_input": True, "vocab_size": 416, "max_position_embeddings": 64},
        num_query_tokens=QUERIES,
        image_text_hidden_size=12,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = shaken(transformers.Blip2ForImageTextRetrieval(config), 0.2)
    return model, finish(model, folder, tokenizer)


def in_float64(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def opened(path: Path) -> PIL.Image.Image:
    return PIL.Image.open(path).convert("RGB")


@pytest.mark.parametrize("text", [{}, {"tie_word_embeddings": False}])
def test_pixels_tokens_scores_and_answers_agree(text: dict[str, Any], tmp_path: Path) -> None:
    theirs, processor = stage2(tmp_path, **text)
    ours = chiasm.load(tmp_path)
    assert isinstance(ours, BLIP2)
    said = []
    for path in odd_photos(tmp_path / "photos"):
        inputs = processor(images=opened(path), text=QUESTION, return_tensors="pt")
        sample = Sample("a", (Image(path), Text(QUESTION)))
        batch = ours.processor.prompts([sample])
        assert batch.stream is not None
        assert batch.images is not None
        assert batch.stream.ids_T.tolist() == inputs.input_ids[0].tolist()
        assert torch.allclose(batch.images.pixels, inputs.pixel_values, atol=1e-5)
        with torch.no_grad():
            expected = theirs.double()(**in_float64(inputs)).logits[0]
            prompt = ours.double().embedded(
                replace(batch, images=batch.images.with_pixels(batch.images.pixels.double()))
            )
            found = ours.language.logits(ours.language(prompt.x_TD, prompt.positions, Packed(prompt.lengths)))
            theirs.float()
            ours.float()
            assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
            for beams in (1, 3):
                (known,) = theirs.generate(**inputs, max_new_tokens=8, do_sample=False, num_beams=beams, eos_token_id=0)
                (answered,) = ours.generate([sample], max_tokens=8, beams=beams)
                said.append(answered.texts[-1].text)
                assert said[-1] == ours.processor.decode(known[inputs.input_ids.shape[1] :].tolist())
    assert len(set(said)) > 1, "a model that says one thing to all proves nothing"


def test_losses_agree(tmp_path: Path) -> None:
    theirs, processor = stage2(tmp_path)
    ours = chiasm.load(tmp_path)
    assert isinstance(ours, BLIP2)
    path = odd_photos(tmp_path / "photos")[0]
    batch = ours.processor([Sample("a", (Image(path), Text(QUESTION), Text(" two dogs", target=True)))])
    assert batch.stream is not None
    answer = f"{QUESTION} two dogs<|endoftext|>"
    inputs = processor(images=opened(path), text=answer, return_tensors="pt")
    assert batch.stream.ids_T.tolist() == inputs.input_ids[0].tolist()
    labels = inputs.input_ids.masked_fill(~batch.stream.target_T, -100)
    # In float64 and of the same pixels: the gradients of shaken weights differ by 1e-3 in float32, whoever computes
    # them. Their loss and their plain attention bring numbers to float32, so the loss is torch's, of their logits.
    theirs.language_model.set_attn_implementation("sdpa")
    output = theirs.double()(**in_float64(inputs), labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits[0, :-1], labels[0, 1:])
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert batch.images is not None
    exact = replace(batch, images=batch.images.with_pixels(inputs.pixel_values.double()))
    found = ours.double().losses(exact)["next_token"]
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    (by_ours,) = torch.autograd.grad(found, dict(ours.named_parameters())["connector.q_former.queries"])
    (by_theirs,) = torch.autograd.grad(expected, theirs.query_tokens)
    torch.testing.assert_close(by_ours, by_theirs[0], atol=1e-6, rtol=1e-6)


def test_what_we_write_transformers_reads(tmp_path: Path) -> None:
    theirs, processor = stage2(tmp_path / "theirs")
    ours = chiasm.load(tmp_path / "theirs")
    save(ours, tmp_path / "ours")
    again = transformers.Blip2ForConditionalGeneration.from_pretrained(tmp_path / "ours")
    rewritten = transformers.Blip2Processor(
        BlipImageProcessorPil.from_pretrained(tmp_path / "ours"),
        transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "ours"),
        num_query_tokens=QUERIES,
    )
    picture = opened(odd_photos(tmp_path / "photos")[2])
    inputs, known = (one(images=picture, text=QUESTION, return_tensors="pt") for one in (rewritten, processor))
    assert inputs.input_ids.tolist() == known.input_ids.tolist()
    assert torch.equal(inputs.pixel_values, known.pixel_values)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, theirs(**known).logits)
    assert again.generation_config.eos_token_id == 0
    assert torch.equal(
        chiasm.load(tmp_path / "ours").state_dict()["connector.q_former.queries"],
        ours.state_dict()["connector.q_former.queries"],
    )


def test_both_heads_of_the_first_stage_agree(tmp_path: Path) -> None:
    theirs, processor = stage1(tmp_path)
    ours = chiasm.load(tmp_path)
    assert isinstance(ours, BLIP2Stage1)
    texts = ["Two dogs, a red ball and a man who reads.", "no", "left of the table"]
    photos = odd_photos(tmp_path / "photos")
    by_best, by_match = (ours.score([Image(path) for path in photos], texts, by=by) for by in ("itc", "itm"))
    for row, path in enumerate(photos):
        for column, text in enumerate(texts):
            inputs = processor(images=opened(path), text=text, return_tensors="pt")
            with torch.no_grad():
                compared = theirs(**inputs)
                matched = theirs(**inputs, use_image_text_matching_head=True).logits_per_image[0]
            assert by_best[row, column].item() == pytest.approx(compared.logits_per_image.item(), abs=1e-4)
            assert by_match[row, column].item() == pytest.approx((matched[1] - matched[0]).item(), abs=1e-4)
    assert (by_best.std(0) > 1e-3).all()
    assert (by_match.std(1) > 1e-3).all()


def test_what_we_write_of_the_first_stage_transformers_reads(tmp_path: Path) -> None:
    theirs, processor = stage1(tmp_path / "theirs")
    save(chiasm.load(tmp_path / "theirs"), tmp_path / "ours")
    again = transformers.Blip2ForImageTextRetrieval.from_pretrained(tmp_path / "ours")
    inputs = processor(images=opened(odd_photos(tmp_path / "photos")[0]), text="two dogs", return_tensors="pt")
    plain = {name: inputs[name][:, QUERIES:] for name in ("input_ids", "attention_mask")}
    read = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "ours")("two dogs", return_tensors="pt")
    assert read.input_ids.tolist() == plain["input_ids"].tolist()
    for matching in (False, True):
        with torch.no_grad():
            known = theirs(**inputs, use_image_text_matching_head=matching).logits_per_image
            found = again(
                pixel_values=inputs.pixel_values, **plain, use_image_text_matching_head=matching
            ).logits_per_image
        assert torch.allclose(found, known, atol=1e-6)


def test_what_is_not_blip_2_as_we_have_it_is_refused(tmp_path: Path) -> None:
    stage2(tmp_path / "theirs")
    ours = chiasm.load(tmp_path / "theirs")
    assert isinstance(ours, BLIP2)
    layout = ours.processor.layout
    ours.processor.layout = replace(layout, before="<Img>")  # type: ignore[type-var]  # a dataclass
    with pytest.raises(CheckpointError, match="at the very beginning"):
        save(ours, tmp_path / "ours")
    write_tokenizer(tmp_path, ("<|endoftext|>",))
    config = transformers.Blip2Config(text_config=transformers.T5Config(vocab_size=416))
    config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="a 't5'; BLIP-2 is read with OPT"):
        chiasm.load(tmp_path)
