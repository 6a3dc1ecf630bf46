"""From JPEG shards to shuffled training batches: chiasm beside webdataset as open_clip sets it up, and beside datasets.

    python -m benchmarks.loader PHOTOS [--samples 8000] [--rounds 3] [--batches 40]

PHOTOS is a folder of JPEG photos; their captions come from a captions.jsonl in it or beside it, or else from their
names. They are repeated until there are enough samples, each a file of its own, and written as WebDataset shards by
chiasm. Every loader makes batches of 64 random 224-pixel crops, normalised, with tokens, on all cores: chiasm with as
many threads, the peers with as many worker processes. They take turns; the median counts. Time runs from the ninth
batch on, when what was prepared ahead is used up."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from chiasm.data.cache import DecodedSource, ImageCache
from chiasm.data.image import Image
from chiasm.data.processor import PairProcessor
from chiasm.data.reader import Reader
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.data.sources.webdataset import WebDataset, write_shards
from chiasm.data.tokenizer import TextTransform, Tokenizer, learn_tokenizer
from chiasm.data.transforms import Augment, ImageTransform

BATCH, SIZE, SHARDS, WARM = 64, 224, 8, 8
CROPS = 8  # of a picture, in the cache that keeps crops
CORES = len(os.sched_getaffinity(0))
EXACT = ImageTransform(SIZE, augment=Augment())
FAST = replace(EXACT, decoding="fast")
Loader = Callable[[], Iterator[Any]]


def samples(photos: Path, count: int) -> Iterator[Sample]:
    """`count` samples of the folder's photos; a comment in each file makes it differ from its copies."""
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not paths:
        sys.exit(f"there are no JPEG photos in {photos}")
    captions = _captions(photos)
    for at in range(count):
        path = paths[at % len(paths)]
        content, comment = path.read_bytes(), f"copy {at}".encode()
        content = content[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + content[2:]
        told = captions.get(path.name, (path.stem.replace("_", " "),))
        yield Sample(f"{at}", (Image(content),), captions=told)


def _captions(photos: Path) -> dict[str, tuple[str, ...]]:
    for file in (photos / "captions.jsonl", photos.parent / "captions.jsonl"):
        if file.exists():
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            return {Path(row["image"]).name: tuple(row["captions"]) for row in rows}
    return {}


def chiasm(source: Source, transform: ImageTransform, tokenizer: Tokenizer) -> Loader:
    """chiasm's reader, with a thread a core."""
    processor = PairProcessor(transform, tokenizer)
    return lambda: iter(Reader(source, processor, BATCH, threads=CORES, captions="first"))


def open_clip(shards: list[Path]) -> Loader:
    """The pipeline of open_clip_train.data.get_wds_dataset.

    Its `tarfile_to_samples_nothrow` does not know the webdataset of today; that package's own stands for it.
    """
    import open_clip as package
    import webdataset as wds
    from open_clip.transform import AugmentationCfg, image_transform

    parts = importlib.import_module("open_clip_train.data")

    transform = image_transform(SIZE, is_train=True, aug_cfg=AugmentationCfg())
    tokenizer = package.get_tokenizer("ViT-B-32")

    def loader() -> Iterator[Any]:
        pipeline = [
            wds.SimpleShardList([str(path) for path in shards]),
            parts.detshuffle2(bufsize=2000, initial=500, seed=0, epoch=0),
            wds.split_by_node,
            wds.split_by_worker,
            wds.tarfile_to_samples(handler=parts.log_and_continue),
            wds.shuffle(bufsize=5000, initial=1000),
            wds.select(parts.filter_no_caption_or_no_image),
            wds.decode("pilrgb", handler=parts.log_and_continue),
            wds.rename(image="jpg;png;jpeg;webp", text="txt"),
            wds.map_dict(image=transform, text=lambda text: tokenizer(text)[0]),
            wds.to_tuple("image", "text"),
            wds.batched(BATCH, partial=False),
        ]
        dataset = wds.DataPipeline(*pipeline).with_epoch(1_000_000)
        return iter(wds.WebLoader(dataset, batch_size=None, shuffle=False, num_workers=CORES, persistent_workers=True))

    return loader


def streaming(shards: list[Path], tokenizer: Tokenizer) -> Loader:
    """The package datasets, streaming the shards, with open_clip's transform and chiasm's tokenizer."""
    import datasets
    from open_clip.transform import AugmentationCfg, image_transform

    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.ERROR)
    transform = image_transform(SIZE, is_train=True, aug_cfg=AugmentationCfg())

    def prepared(row: dict[str, Any]) -> dict[str, Any]:
        return {"image": transform(row["jpg"].convert("RGB")), "text": row["txt"]}

    def collated(rows: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.stack([row["image"] for row in rows]), tokenizer([row["text"] for row in rows]).ids_BT

    def loader() -> Iterator[Any]:
        files = [str(path) for path in shards]
        rows = datasets.load_dataset("webdataset", data_files=files, streaming=True, split="train")
        rows = rows.shuffle(seed=0, buffer_size=1000).map(prepared, remove_columns=["jpg", "txt", "json"]).repeat(None)
        return iter(torch.utils.data.DataLoader(rows, BATCH, num_workers=CORES, collate_fn=collated))

    return loader


def rate(loader: Loader, batches: int) -> float:
    """Samples a second."""
    made = loader()
    for _ in islice(made, WARM):
        pass
    start = time.perf_counter()
    for _ in islice(made, batches):
        pass
    return batches * BATCH / (time.perf_counter() - start)


def levels_off(source: Source) -> float:
    """Mean difference of the fast path's grey levels from the exact path's, on the same crops."""
    differences = []
    for index in range(min(500, len(source))):
        image = source[index].image
        exact, fast = (one.pixels_uint8(image, np.random.default_rng(index)).astype(int) for one in (EXACT, FAST))
        differences.append(float(np.abs(exact - fast).mean()))
    return statistics.mean(differences)


def memory(shard: Path, count: int, folder: Path) -> int:
    """Peak of a process's resident memory, in KiB, that reads at random from `count` shards like this one."""
    folder.mkdir()
    for at in range(count):
        (folder / f"shard-{at:06d}.tar").symlink_to(shard)
    command = [sys.executable, "-m", "benchmarks.loader", "--memory-of", str(folder)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory(folder: Path) -> None:
    """What `memory` runs: reads 20 batches, then prints the peak."""
    source = WebDataset(tuple(str(path) for path in sorted(folder.glob("*.tar"))))
    tokenizer = Tokenizer(learn_tokenizer(source[0].captions, 300), TextTransform())
    for _ in islice(chiasm(source, FAST, tokenizer)(), 20):
        pass
    # Not getrusage: its peak counts the parent from which this process was forked.
    print(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def compare(photos: Path, count: int, rounds: int, batches: int, folder: Path) -> None:
    """Writes the shards, lets the loaders take turns, and prints the figures."""
    shards = write_shards(samples(photos, count), folder / "shards", per_shard=-(-count // SHARDS))
    source = WebDataset(tuple(str(path) for path in shards))
    tokenizer = Tokenizer(learn_tokenizer((source[at].captions[0] for at in range(0, count, 7)), 8000), TextTransform())
    cached = DecodedSource(source, FAST, ImageCache(folder / "pictures"), CORES)
    cached.fill(Console(quiet=True))
    stored = DecodedSource(source, FAST, ImageCache(folder / "pictures", crops=CROPS), CORES)
    stored.fill(Console(quiet=True))
    plain = replace(FAST, augment=None)
    finished = DecodedSource(source, plain, ImageCache(folder / "pictures"), CORES)
    finished.fill(Console(quiet=True))
    loaders = {
        "webdataset and Pillow, as open_clip": open_clip(shards),
        "datasets, streaming": streaming(shards, tokenizer),
        "chiasm, exact": chiasm(source, EXACT, tokenizer),
        "chiasm, fast": chiasm(source, FAST, tokenizer),
        "chiasm, decoded cache": chiasm(cached, FAST, tokenizer),
        f"chiasm, decoded cache, {CROPS} stored crops": chiasm(stored, FAST, tokenizer),
        "chiasm, decoded cache, no augmentation": chiasm(finished, plain, tokenizer),
    }
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, loader in loaders.items():
            rates[name].append(rate(loader, batches))
    median = {name: statistics.median(some) for name, some in rates.items()}
    print(f"{count} photos like {source[0].image.size}, {CORES} cores, batches of {BATCH}; samples a second:")
    for name, some in rates.items():
        print(f"  {name:40s} {median[name]:7.0f}   ({', '.join(f'{one:.0f}' for one in some)})")
    best = max(median["webdataset and Pillow, as open_clip"], median["datasets, streaming"])
    print(f"figure: exact path / best peer = {median['chiasm, exact'] / best:.2f} (goal >= 1.2)")
    print(f"figure: fast path / best peer = {median['chiasm, fast'] / best:.2f} (goal >= 2.0)")
    print(f"figure: fast path, grey levels off = {levels_off(source):.3f} (goal <= 3)")
    anew = median["chiasm, decoded cache"]
    print(f"figure: decoded cache, crops drawn anew / best peer = {anew / best:.2f} (goal >= 10)")
    crops = median[f"chiasm, decoded cache, {CROPS} stored crops"]
    print(f"figure: decoded cache, {CROPS} stored crops a picture / best peer = {crops / best:.2f} (goal >= 10)")
    alike = median["chiasm, decoded cache, no augmentation"]
    print(f"figure: decoded cache, no augmentation / best peer = {alike / best:.2f} (goal >= 10)")
    one, hundred = (memory(shards[0], some, folder / f"{some}-shards") for some in (1, 100))
    print(f"figure: memory at 100 shards / at 1 shard = {hundred / one:.2f} (goal <= 1.1)")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # in the peers' workers too: as many workers as cores, a thread each
    if options.memory_of is not None:
        print_memory(options.memory_of)
        return
    if options.photos is None or not options.photos.is_dir():
        parser.error("name a folder of JPEG photos")
    try:
        importlib.import_module("tests.peers")  # where open_clip and torchvision lie, and what lets them be imported
        for peer in ("datasets", "open_clip", "webdataset"):
            importlib.import_module(peer)
    except ModuleNotFoundError as error:
        sys.exit(f"the peer {error.name} is missing: `make test` installs those of the extra 'dev' and of peers.txt")
    with tempfile.TemporaryDirectory() as folder:
        compare(options.photos, options.samples, options.rounds, options.batches, Path(folder))


if __name__ == "__main__":
    main()
