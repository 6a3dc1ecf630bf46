"""The index of `chiasm search` at 1,000 and at 10,000 pictures: memory while it grows, and the time of a query.

    python -m benchmarks.search_index [PICTURES]

Renders small scenes into a folder (every picture with a content of its own), indexes them with a small, untrained CLIP
in a process of its own, and prints that process's largest resident memory at a tenth of the pictures and at all of
them. Then queries take turns with a plain numpy product over the same vectors in memory, sorted; both must find the
same pictures."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from rich.console import Console

from chiasm.data.processor import PairProcessor
from chiasm.data.sources.scenes import Scenes
from chiasm.data.tokenizer import TextTransform, Tokenizer, learn_tokenizer
from chiasm.data.transforms import ImageTransform
from chiasm.models.clip import CLIP, SIZES
from chiasm.serving.index import Index
from chiasm.serving.search import Finder

PICTURES, RENDERED, QUERIES, TOP = 10_000, 500, 200, 20


def make_images(folder: Path, first: int, last: int) -> None:
    """PNGs of 64 pixels: some rendered scenes, each shown again and again with a few grey levels of its own."""
    scenes = Scenes(count=RENDERED, seed=5, annotations=False)
    for at in range(first, last):
        levels = np.asarray(scenes[at % RENDERED].image.decode()).astype(np.int64)
        shift = np.random.default_rng(at).integers(-9, 10, (1, 1, 3))
        file = folder / f"{at // 1000:03d}" / f"{at:06d}.png"
        file.parent.mkdir(exist_ok=True)
        levels[0, 0] = (at & 255, at >> 8 & 255, at >> 16)  # no two alike
        PIL.Image.fromarray((levels + shift).clip(0, 255).astype(np.uint8)).save(file, compress_level=1)
        os.utime(file, (at, at))  # what was changed a moment ago would be read twice


def small_clip() -> CLIP:
    """chiasm's smallest CLIP, with the weights it begins with."""
    torch.manual_seed(0)
    captions = [sample.captions[0] for sample in Scenes(count=200, seed=5)]
    tokenizer = Tokenizer(learn_tokenizer(captions, 512), TextTransform(context=40))
    return CLIP(SIZES["small"], PairProcessor(ImageTransform(size=64), tokenizer))


def update(folder: Path, home: Path) -> None:
    """Brings the index up to date and prints what it took; run in a process of its own."""
    index = Index(folder, small_clip(), home)
    started = time.perf_counter()
    changes = index.update(Console(file=io.StringIO()))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"embedded": changes.embedded, "seconds": seconds, "peak": peak}))


def measured(folder: Path, home: Path) -> dict[str, float]:
    """`update` in a new process."""
    words = [sys.executable, __file__, "--update", str(folder), str(home)]
    told: dict[str, float] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return told


def query_times(finder: Finder) -> tuple[float, float, float]:
    """Median seconds of a query, and of the plain product, in turns; the share of its best that the query found."""
    rows_ND = np.array(finder.vectors.rows()[[entry.row for entry in finder.entries]])
    draw = np.random.default_rng(0)
    ours, plain, found = [], [], []
    for _ in range(QUERIES):
        query_D = rows_ND[draw.integers(len(rows_ND))] + 0.02 * draw.normal(size=rows_ND.shape[1]).astype(np.float32)
        started = time.perf_counter()
        hits = finder.find(query_D, TOP)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        scores_N = rows_ND @ query_D
        best = np.argsort(-scores_N)[:TOP]
        plain.append(time.perf_counter() - started)
        found.append(np.mean([hit.score >= scores_N[best[-1]] - 1e-5 for hit in hits]))
    return float(np.median(ours)), float(np.median(plain)), float(np.mean(found))


def main(words: list[str]) -> None:
    """Prints the figures; with --update, does one update."""
    if words[:1] == ["--update"]:
        update(Path(words[1]), Path(words[2]))
        return
    count = int(words[0]) if words else PICTURES
    with tempfile.TemporaryDirectory() as root:
        folder, few, many = Path(root) / "pictures", Path(root) / "few", Path(root) / "many"
        folder.mkdir()
        make_images(folder, 0, count // 10)
        first = measured(folder, few)
        make_images(folder, count // 10, count)
        whole, again = measured(folder, many), measured(folder, many)
        print(f"{count // 10:,} pictures: {first['peak']:.0f} MiB at most, {first['seconds']:.1f} s")
        print(f"{count:,} pictures: {whole['peak']:.0f} MiB at most, {whole['seconds']:.1f} s")
        print(f"{count:,} pictures, none of them new: {again['seconds']:.2f} s, {again['embedded']:.0f} embedded")
        index = Index(folder, small_clip(), many)
        ours, plain, found = query_times(Finder(index))
        print(f"a query of {count:,}: {1000 * ours:.2f} ms; the plain product, sorted: {1000 * plain:.2f} ms")
        graph, _, near = query_times(Finder(index, exact_up_to=0))
        print(f"by the graph: {1000 * graph:.2f} ms, {near:.1%} of the best found")
        print(f"figure: search index memory, all to a tenth = {whole['peak'] / first['peak']:.2f} (goal <= 1.10)")
        print(f"figure: search best pictures found = {found:.3f} (goal >= 1)")
        print(f"figure: search query to plain product = {ours / plain:.2f} (goal <= 2)")


if __name__ == "__main__":
    main(sys.argv[1:])
