"""A supervised tuning step of a SmolLM2-135M with packing, beside TRL's SFTTrainer: the same weights, texts and AdamW.

    python -m benchmarks.sft CAPTIONS [--steps 2] [--rounds 2] [--rows 4] [--length 1024] [--layers 30]

CAPTIONS: a caption file, JSON lines with "captions" (Flickr8k's) or COCO's JSON; captions are answers to a request, in
ChatML. TRL is configured as its users do: `packing=True` (best fit), --rows rows of --length tokens a step, fused
AdamW, its default attention, gradient checkpointing as it is by default. chiasm packs the same texts into a stream, and
recomputes layers too (--keep: not). Each side runs in a process of its own, in turns, so that its peak memory is its
own: the highest resident size beyond that before the first step, weights in neither. The loss of the same samples is
compared first.

A round takes about six minutes on two cores; `--rows 1 --rounds 1` takes less than two. Needs TRL, which `make test`
installs from peers.txt, and accelerate, which comes with peft."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from tests import peers  # noqa: F401  # before any class of transformers is touched

import chiasm
from chiasm.data.batch import Batch
from chiasm.data.chat_processor import ChatProcessor, ChatSettings
from chiasm.data.reader import Budget, Reader
from chiasm.data.sample import Sample, Text
from chiasm.data.source import Source
from chiasm.data.tokenizer import learn_tokenizer
from chiasm.models.language import SIZES, Config, Language
from chiasm.nn.decoders import llama
from chiasm.training.loop import Loop
from chiasm.training.settings import Training
from chiasm.weights.transformers import save

REQUEST = "Describe a photo in one sentence."
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def texts_of(file: Path, count: int) -> list[str]:
    """Captions, in order."""
    if file.suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        found = [caption for row in rows for caption in row["captions"]]
    else:
        found = [one["caption"] for one in json.loads(file.read_text())["annotations"]]
    return [caption.strip() for caption in found[:count]]


@dataclass(frozen=True)
class Chats(Source):
    """Captions as answers to one request."""

    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Sample:
        answer = Text(self.texts[index], role="assistant", target=True)
        return Sample(str(index), (Text(REQUEST, role="user"), answer))


def prepare(folder: Path, texts: list[str], layers: int) -> None:
    """A model of SmolLM2-135M's shape with random weights, and a tokenizer learned from the texts, as transformers."""
    decoder = SIZES["smollm2-135m"].language
    assert isinstance(decoder, llama.Config)
    backend = learn_tokenizer([*texts, REQUEST, "user assistant"], 4096)
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    torch.manual_seed(0)
    settings = ChatSettings(context=decoder.context, ends=("<|im_end|>",))
    model = Language(Config(replace(decoder, layers=layers)), ChatProcessor(backend, settings, TEMPLATE))
    save(model, folder)


def resident() -> int:
    """Bytes of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """The most that it ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def encoded(folder: Path, texts: list[str]) -> list[tuple[list[int], list[int]]]:
    """Each chat as token ids and labels, -100 where nothing is learned: both sides are given the same."""
    processor = vlm(folder).processor
    rows = [processor.tokens(sample) for sample in Chats(tuple(texts))]
    return [(ids, [one if target else -100 for one, target in zip(ids, of, strict=True)]) for ids, of in rows]


def by_chiasm(folder: Path, texts: list[str], steps: int, length: int, recompute: bool) -> dict[str, Any]:
    """Steps of the loop, each on a stream of at most `length` tokens."""
    model = vlm(folder)
    source = Chats(tuple(texts))
    batch = model.processor([source[at] for at in range(8)])
    with torch.no_grad():
        first = float(model.losses(batch)["next_token"])
    reader = Reader(source, model.processor, budget=Budget(length), captions="keep")
    settings = Training(
        steps + 1, learning_rate=2e-5, schedule="constant", weight_decay=0.0, device="cpu", recompute=recompute
    )
    seconds: list[float] = []
    tokens: list[int] = []
    before = resident()
    with tempfile.TemporaryDirectory() as place:
        loop = Loop(model, reader, settings, Path(place), console=Console(quiet=True))
        step = loop._step

        def timed(one: Batch, sizes: Sequence[int] = ()) -> None:
            assert one.stream is not None
            start = time.perf_counter()
            step(one, sizes)
            seconds.append(time.perf_counter() - start)
            tokens.append(len(one.stream.ids_T))

        loop._step = timed  # type: ignore[method-assign, assignment]  # the loop itself, with a clock
        loop.run()
    return told(first, seconds, tokens, before)


def by_trl(folder: Path, texts: list[str], steps: int, rows_a_step: int, length: int) -> dict[str, Any]:
    """Steps of SFTTrainer, each on packed rows of at most `length` tokens."""
    import datasets
    import transformers
    import trl

    rows = encoded(folder, texts)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    seconds: list[float] = []
    tokens: list[int] = []

    class Timed(trl.SFTTrainer):  # type: ignore[misc]  # untyped
        """The trainer with a clock around a step: forward, backward, clipping and AdamW."""

        def training_step(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            tokens.append(inputs["input_ids"].numel())
            return super().training_step(model, inputs, *rest, **more)

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]  # untyped
        """Notes when steps begin and end."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.start)

    with tempfile.TemporaryDirectory() as place:
        settings = trl.SFTConfig(
            output_dir=place,
            max_steps=steps + 1,
            per_device_train_batch_size=rows_a_step,
            packing=True,
            max_length=length,
            bf16=False,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            disable_tqdm=True,
        )
        trainer = Timed(
            model=model,
            args=settings,
            train_dataset=datasets.Dataset.from_list([{"input_ids": ids, "labels": of} for ids, of in rows]),
            processing_class=transformers.AutoTokenizer.from_pretrained(folder),
            callbacks=[Clock()],
        )
        some = rows[:8]
        packed = {
            "input_ids": [one for ids, _ in some for one in ids],
            "labels": [one for _, of in some for one in of],
            "seq_lengths": [len(ids) for ids, _ in some],
        }
        with torch.no_grad():
            first = float(model(**trainer.data_collator([packed])).loss)
        before = resident()
        trainer.train()
    return told(first, seconds, tokens, before)


def told(first: float, seconds: list[float], tokens: list[int], before: int) -> dict[str, Any]:
    """Without the first step, which warms up."""
    rate = statistics.median(count / took for count, took in zip(tokens[1:], seconds[1:], strict=True))
    return {"loss": first, "rate": rate, "tokens": tokens, "seconds": seconds, "memory": peak() - before}


def vlm(folder: Path) -> Language:
    """The model that both sides begin with."""
    model = chiasm.load(folder)
    assert isinstance(model, Language)
    return model


def main() -> None:
    """Prints both sides' figures, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4, help="rows a step; TRL's own default is 8")
    parser.add_argument("--length", type=int, default=1024, help="tokens a row")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--keep", action="store_true", help="chiasm keeps all activations: faster, more memory")
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if importlib.util.find_spec("trl") is None:
        sys.exit("this benchmark needs TRL: `make test` installs it, from peers.txt")
    texts = texts_of(options.captions, 4000)
    if options.side is not None:
        side, folder = options.side
        found = (
            by_chiasm(Path(folder), texts, options.steps, options.rows * options.length, not options.keep)
            if side == "chiasm"
            else by_trl(Path(folder), texts, options.steps, options.rows, options.length)
        )
        print(json.dumps(found))
        return
    results: dict[str, list[dict[str, Any]]] = {"chiasm": [], "trl": []}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), texts, options.layers)
        for _ in range(options.rounds):
            for side, found_so_far in results.items():
                start = time.perf_counter()
                words = [sys.executable, "-m", "benchmarks.sft", *sys.argv[1:], "--side", side, folder]
                done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ})
                if done.returncode:
                    sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
                found_so_far.append(json.loads(done.stdout.splitlines()[-1]))
                one = found_so_far[-1]
                print(
                    f"{side}: {one['rate']:.0f} tokens/s, {one['memory'] / 2**30:.2f} GiB, "
                    f"{time.perf_counter() - start:.0f} s in all",
                    flush=True,
                )
    report(results)


def report(results: dict[str, list[dict[str, Any]]]) -> None:
    """The figures of both sides: medians of rates, the least of the peaks."""
    ours, theirs = (results[side][0]["loss"] for side in ("chiasm", "trl"))
    if abs(ours - theirs) > 1e-4:
        sys.exit(f"the sides disagree on the loss of the same samples: {ours} and {theirs}")
    rates = {side: statistics.median(one["rate"] for one in runs) for side, runs in results.items()}
    peaks = {side: min(one["memory"] for one in runs) for side, runs in results.items()}
    print(f"{torch.get_num_threads()} threads; loss of the same samples: {ours:.6f} and {theirs:.6f}")
    for side, runs in results.items():
        full = statistics.mean(runs[0]["tokens"])
        print(
            f"{side}: {rates[side]:.0f} tokens/s at {full:.0f} a step, {peaks[side] / 2**30:.2f} GiB beyond the start"
        )
    print(f"figure: supervised tuning step, speed beside TRL = {rates['chiasm'] / rates['trl']:.2f} (goal >= 1.5)")
    print(
        f"figure: supervised tuning step, peak memory beside TRL = {peaks['chiasm'] / peaks['trl']:.2f} (goal <= 0.6)"
    )


if __name__ == "__main__":
    main()
