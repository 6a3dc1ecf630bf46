"""Data with faults planted in known places."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.diagnosis.finding import Diagnosis, Finding
from chiasm.diagnosis.run import diagnose
from chiasm.experiment.recipe import load_recipe

RECIPE = """
name: planted
data:
  train: {{source: captions, path: {folder}/train.jsonl}}
  batch_size: 8
  max_skipped: 0.5
processor: {{tokenizer: {{learn: 300}}, text: {{context: 30}}, image: {{size: 64}}}}
model: {{family: clip, size: small}}
training: {{steps: 20, learning_rate: 1e-3, checkpoint_every: 10}}
"""
CHATS = """
name: chats
data:
  train: {{source: llava, path: {folder}/rows.json}}
  batch_size: 2
  captions: keep
processor: {{tokenizer: {{learn: 300}}, template: {folder}/chat.jinja, context: 120}}
model: {{family: llava, size: small}}
training: {{steps: 4}}
"""
TEMPLATE = (
    "{% for one in messages %}{{ one.role }}: {{ one.content }}"
    "{% if one.role == 'assistant' %}<|endoftext|>{% endif %} {% endfor %}"
)


def photo(seed: int, width: int = 96, height: int = 80) -> PIL.Image.Image:
    """A picture like no other: soft coloured patches."""
    levels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return PIL.Image.fromarray(levels).resize((width, height), PIL.Image.Resampling.BICUBIC)


def jpeg(image: PIL.Image.Image, quality: int = 92) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def bomb(side: int = 40_000) -> bytes:
    """A PNG whose header claims side x side pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = b"IDAT" + zlib.compress(bytes(64))
    chunks = (struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in (header, content))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def write_rows(file: Path, rows: Sequence[tuple[str, Any]]) -> None:
    lines = [json.dumps({"image": name, "captions": said}) for name, said in rows]
    file.write_text("".join(line + "\n" for line in lines))


def clean(folder: Path, count: int = 24, more: str = "") -> Path:
    """A folder of pictures with captions that nothing is wrong with; returns the recipe."""
    (folder / "LICENSE").write_text("CC0")
    rows = []
    for at in range(count):
        (folder / f"{at}.jpg").write_bytes(jpeg(photo(at)))
        rows.append((f"{at}.jpg", [f"soft patches, number {at}"]))
    write_rows(folder / "train.jsonl", rows)
    return recipe(folder, more)


def recipe(folder: Path, more: str = "", base: str = RECIPE) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(base.format(folder=folder) + more)
    return file


def add(folder: Path, name: str, content: bytes, captions: Any) -> None:
    """One more row of the training data."""
    (folder / name).write_bytes(content)
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps({"image": name, "captions": captions}) + "\n")


def chat(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A folder of conversations; returns the recipe."""
    (folder / "chat.jinja").write_text(TEMPLATE)
    (folder / "rows.json").write_text(json.dumps(rows))
    return recipe(folder, base=CHATS)


def diagnosed(file: Path, *overrides: str) -> Diagnosis:
    return diagnose(load_recipe(file, overrides), None)


def of(diagnosis: Diagnosis, check: str) -> list[Finding]:
    return [one for one in diagnosis.findings if one.check == check]


@dataclass(frozen=True)
class Listed(Source):
    """Samples that lie in memory."""

    samples: tuple[Sample, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]
