"""Tiny checkpoints that speak, in the manner of published ones, made of nothing but the peers' own classes."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

import chiasm
from chiasm.data.batch import Batch
from chiasm.data.image import Image
from chiasm.data.sample import Sample, Text
from chiasm.models.generative import VisionLanguageModel
from chiasm.nn.decoder import Packed
from chiasm.weights.transformers import save
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.shared_data import shared_data

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = (
    "What is in the picture? Two dogs, a red ball and a man who reads.",
    "The answer is yes; there are 3 of them, left of the table.",
    "user assistant system",
)


@functools.cache
def vocabulary(size: int = 400, extra: tuple[str, ...] = ("<image>",)) -> str:
    """A byte-level BPE tokenizer, as JSON, with ChatML's marks and more special tokens behind the words."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(extra),
        special_tokens=list(MARKS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.add_special_tokens(list(extra))
    return backend.to_str()


def write_tokenizer(folder: Path, template: str = CHATML, extra: tuple[str, ...] = ("<image>",)) -> int:
    """Writes a tokenizer with a chat template as transformers does; returns its vocabulary."""
    backend = tokenizers.Tokenizer.from_str(vocabulary(extra=extra))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=template
    )
    fast.save_pretrained(folder)
    return int(backend.get_vocab_size())


def set_ends(folder: Path, *ids: int) -> None:
    """Says in `generation_config.json` which tokens end an answer."""
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(ids)}))


def odd_photos(folder: Path) -> list[Path]:
    """Real photos as they are, and cut to be tall, wide, tiny and square."""
    whole = sorted(shared_data("coco").rglob("*.jpg"))[:2]
    folder.mkdir(exist_ok=True)
    made = [*whole]
    with PIL.Image.open(whole[0]) as picture:
        for size in ((90, 331), (401, 77), (9, 13), (120, 120)):
            file = folder / f"{size[0]}x{size[1]}.png"
            picture.convert("RGB").crop((40, 30, 40 + size[0], 30 + size[1])).save(file)
            made.append(file)
    return made


def resized_photo(folder: Path, shapes: Mapping[str, tuple[int, int]], shape: str) -> Path:
    """A real photo, another one for each of these shapes (width, height), stretched to it."""
    photo = sorted(shared_data("coco").rglob("*.jpg"))[list(shapes).index(shape)]
    file = folder / f"{shape}.png"
    with PIL.Image.open(photo) as picture:
        picture.convert("RGB").resize(shapes[shape]).save(file)
    return file


def rendered(folder: Path, pictures: int, question: str) -> tuple[Any, str]:
    """The tokenizer in a folder, and what its template writes for so many pictures and a question, ready for an answer.

    For processors that as a whole want torchvision."""
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    chat = [{"role": "user", "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": question}]}]
    return tokenizer, tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)


def asking(paths: Sequence[Path], question: str, key: str = "a") -> Sample:
    """Pictures and a question, as ours takes them."""
    return Sample(key, (*map(Image, paths), Text(question, role="user")))


def asked(processor: Any, rows: Sequence[Sequence[Path]], question: str, answer: str | None = None) -> Any:
    """What transformers makes of rows of pictures and a question, with an answer or ready for one."""
    texts = []
    for paths in rows:
        content = [*({"type": "image"} for _ in paths), {"type": "text", "text": question}]
        chat: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if answer is not None:
            chat.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        texts.append(processor.apply_chat_template(chat, add_generation_prompt=answer is None, tokenize=False))
    pictures = [[PIL.Image.open(path).convert("RGB") for path in paths] for paths in rows]
    nested = pictures if "Idefics" in type(processor).__name__ else [one for row in pictures for one in row]
    return processor(images=nested, text=texts, padding=len(rows) > 1, return_tensors="pt")


def assert_same_reading(ours: VisionLanguageModel, theirs: Any, batch: Batch, inputs: Any) -> None:
    """One row: equal tokens, and equal logits at every place; in float64, as random weights of this size make float32's
    last bits larger layer by layer."""
    assert batch.stream is not None
    assert batch.images is not None
    assert batch.stream.ids_T.tolist() == inputs.input_ids[0].tolist()
    batch = replace(batch, images=batch.images.with_pixels(batch.images.pixels.double()))
    exact = {name: one.double() if one.is_floating_point() else one for name, one in inputs.items()}
    for model in (ours, theirs):
        model.double()
    with torch.no_grad():
        expected = theirs(**exact).logits[0]
        prompt = ours.embedded(batch)
        found = ours.language.logits(ours.language(prompt.x_TD, prompt.positions, Packed(prompt.lengths)))
    for model in (ours, theirs):
        model.float()
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)


def assert_same_losses(ours: VisionLanguageModel, theirs: Any, processor: Any, paths: Sequence[Path]) -> None:
    """The loss of a batch equals theirs, with labels on the answer and the mark that ends its turn."""
    answer = "a red ball"
    samples = [
        Sample(str(at), (Image(path), Text("What is it?", role="user"), Text(answer, role="assistant", target=True)))
        for at, path in enumerate(paths)
    ]
    batch = ours.processor(samples)
    assert batch.stream is not None
    sums, counts = 0.0, 0
    rows = batch.stream.lengths_B.tolist()
    targets = torch.split(batch.stream.target_T, rows)
    for path, target in zip(paths, targets, strict=True):
        inputs = asked(processor, [[path]], "What is it?", answer)
        labels = torch.full_like(inputs.input_ids, -100)
        chosen = target.nonzero()[:, 0]
        said = inputs.input_ids[0, chosen]
        assert ours.processor.decode(said.tolist()).strip() == answer
        assert int(said[-1]) in ours.processor.end_ids
        labels[0, chosen] = said
        with torch.no_grad():
            sums += float(theirs(**inputs, labels=labels).loss) * len(chosen)
        counts += len(chosen)
    with torch.no_grad():
        assert float(ours.losses(batch)["next_token"]) == pytest.approx(sums / counts, rel=1e-4)


def assert_same_answers(
    ours: VisionLanguageModel, theirs: Any, processor: Any, rows: Sequence[Sequence[Path]], question: str
) -> None:
    """Greedy answers agree, of each row alone and of all together."""
    samples = [asking(paths, question, str(at)) for at, paths in enumerate(rows)]
    known = []
    for row in (*([one] for one in rows), rows):
        inputs = asked(processor, row, question)
        with torch.no_grad():
            said = theirs.generate(**inputs, max_new_tokens=8, do_sample=False)[:, inputs.input_ids.shape[1] :]
        known.append([ours.processor.decode(one.tolist()) for one in said])
    alone = [ours.generate([sample], max_tokens=8)[0].texts[-1].text for sample in samples]
    assert alone == [one[0] for one in known[:-1]]
    assert [one.texts[-1].text for one in ours.generate(samples, max_tokens=8)] == known[-1]
    assert len(set(alone)) > 1 or len(rows) == 1


def assert_written_as_read(
    ours: VisionLanguageModel, theirs: Any, folder: Path, processors: Any, paths: Sequence[Path]
) -> None:
    """What we write, transformers reads: equal inputs, equal logits; and so do we.

    processors: makes transformers' processor of a folder; theirs stands in `folder / "theirs"`.
    """
    save(ours, folder / "ours")
    again = type(theirs).from_pretrained(folder / "ours")
    inputs, made = (asked(processors(folder / one), [paths], "What is it?") for one in ("theirs", "ours"))
    assert made.keys() == inputs.keys()
    assert all(torch.equal(made[key], inputs[key]) for key in inputs)
    with torch.no_grad():
        assert torch.equal(again(**made).logits, theirs(**inputs).logits)
    twice = chiasm.load(folder / "ours")
    assert isinstance(twice, VisionLanguageModel)
    assert twice.config == ours.config
    assert twice.processor.layout == ours.processor.layout


def tiny_llama(vocabulary: int) -> Any:
    """The settings of a language model as small as it can be, whose random weights differ between words."""
    return transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        initializer_range=0.3,
    )


def tiny_clip(size: int, patch: int) -> Any:
    """The settings of CLIP's image tower for pictures of `size` pixels a side, whose random weights differ between
    pictures."""
    return transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=size,
        patch_size=patch,
        initializer_range=0.3,
        initializer_factor=5.0,
    )
