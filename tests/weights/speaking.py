"""Tiny checkpoints that speak, in the manner of published ones, made of nothing but the peers' own classes."""

import functools
import json
from pathlib import Path

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tests import peers  # noqa: F401  # before any class of transformers is touched

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
