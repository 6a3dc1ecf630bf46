"""Samples made ready to be shown: as a source gives them, as a processor reads them, as a batch holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chiasm.data.batch import Batch, Stream, Tokens
from chiasm.data.contact_sheet import drawn
from chiasm.data.image import Image
from chiasm.data.processor import Processor
from chiasm.data.reader import Reader
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.diagnosis.setting import Setting
from chiasm.diagnosis.spans import Kind, Piece, collapsed
from chiasm.errors import DataError

Pixels = NDArray[np.uint8]
_WIDTH = 320  # pixels, of an image as a source gives it


@dataclass(frozen=True)
class ShownSample:
    """One sample. pieces: its text. facts: further facts in a few words. images: (H, W, 3) each."""

    key: str
    pieces: tuple[Piece, ...]
    images: tuple[Pixels, ...] = ()
    facts: str = ""

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


def of_samples(samples: Sequence[Sample], boxes: bool = False) -> list[ShownSample]:
    """Samples as they are: the first picture, all captions, or else all texts. Raises DataError for a broken one."""
    found = []
    for sample in samples:
        image = drawn(sample, _WIDTH, boxes)
        texts = sample.captions or tuple(text.text for text in sample.texts)
        facts = f"{len(sample.images)} pictures, {len(sample.captions)} captions, {len(sample.boxes)} boxes"
        shown = (np.asarray(image),) if image is not None else ()
        found.append(ShownSample(sample.key, (Piece("\n".join(texts), "read"),), shown, facts))
    return found


def of_source(processor: Processor, source: Source, count: int) -> list[ShownSample]:
    """The first samples of a source as a processor reads them, whole, with what is learned of them."""
    return [_previewed(processor, source[index]) for index in range(min(count, len(source)))]


def _previewed(processor: Processor, sample: Sample) -> ShownSample:
    preview = processor.preview(sample)
    pieces = collapsed(preview.text, preview.spans, preview.image_token)
    return ShownSample(sample.key, tuple(pieces), _thumbs(sample), preview.summary)


def _thumbs(sample: Sample) -> tuple[Pixels, ...]:
    thumbs = (drawn(Sample(sample.key, (image,)), _WIDTH) for image in sample.images)
    return tuple(np.asarray(thumb) for thumb in thumbs if thumb is not None)


@dataclass(frozen=True)
class ShownBatch:
    """A batch as the model gets it. rows: its samples. facts: about the whole batch, by name."""

    rows: tuple[ShownSample, ...]
    facts: dict[str, str]


def of_batch(setting: Setting, count: int) -> ShownBatch:
    """The first training batch of a recipe, `count` samples of it at most, augmented as in training.

    Raises DataError where none of its samples can be read, or what is wrong with the recipe's processor.
    """
    data = setting.recipe.data
    if setting.processor is None:
        raise DataError(setting.findings[0].title)
    size = min(count, data.batch_size or count, len(data.train))
    reader = Reader(data.train, setting.processor, size, seed=setting.recipe.seed, captions=data.captions)
    batch, skipped = reader.batch_at(0)
    if batch is None:
        raise DataError(f"none of the first {size} samples can be read: {skipped[0].reason}")
    decode = _decoder(setting.processor)
    pieces = list(_of_tokens(batch.texts, decode) if batch.texts is not None else _of_stream(batch.stream, decode))
    rows = tuple(
        ShownSample(key, tuple(parts), tuple(_images(setting, batch, row)), facts)
        for row, (key, (parts, facts)) in enumerate(zip(batch.keys, pieces, strict=True))
    )
    return ShownBatch(rows, _facts(setting, batch, len(skipped)))


def _decoder(processor: Processor) -> Callable[[list[int]], str]:
    backend = processor.backend
    if backend is None:
        raise DataError(f"what a {type(processor).__name__} makes cannot be shown")
    return lambda ids: str(backend.decode(ids, skip_special_tokens=False))


def _of_tokens(texts: Tokens, decode: Callable[[list[int]], str]) -> Iterator[tuple[list[Piece], str]]:
    width = texts.ids_BT.shape[1]
    for ids_T, length in zip(texts.ids_BT.tolist(), texts.lengths_B.tolist(), strict=True):
        pieces = [Piece(decode(ids_T[:length]), "read")]
        if padding := width - length:
            pieces.append(Piece(f" + padding x {padding}", "padding"))
        yield pieces, f"{length} tokens, {width - length} padding"


def _of_stream(stream: Stream | None, decode: Callable[[list[int]], str]) -> Iterator[tuple[list[Piece], str]]:
    assert stream is not None
    lengths = stream.lengths_B.tolist()
    columns = (stream.ids_T, stream.target_T, stream.image_mask_T)
    rows = zip(*(torch.split(column, lengths) for column in columns), strict=True)
    for ids, targets, image_tokens in rows:
        kinds = list(map(_kind, targets.tolist(), image_tokens.tolist()))
        pieces: list[Piece] = []
        for kind, run in groupby(zip(kinds, ids.tolist(), strict=True), key=lambda pair: pair[0]):
            tokens = [token for _, token in run]
            text = f"{decode(tokens[:1])} x {len(tokens)}" if kind == "picture" else decode(tokens)
            pieces.append(Piece(text, kind))
        yield pieces, f"{len(ids)} tokens: {int(image_tokens.sum())} for pictures, {int(targets.sum())} learned"


def _kind(target: bool, image_token: bool) -> Kind:
    return "picture" if image_token else "learned" if target else "read"


def _images(setting: Setting, batch: Batch, row: int) -> Iterator[Pixels]:
    """The pixels of a sample's pictures (or of their tiles), with the normalisation undone."""
    if batch.images is None:
        return
    for pixels in batch.images.of_rows(row, row + 1).pixels:
        yield setting.transform.shown(pixels) if setting.transform is not None else _stretched(pixels)


def _stretched(pixels_CHW: Tensor) -> Pixels:
    """Pixels of unknown normalisation, stretched so that the darkest is 0 and the brightest 255."""
    low, high = pixels_CHW.min(), pixels_CHW.max()
    pixels_0_255 = (pixels_CHW - low) / (high - low).clamp(min=1e-6) * 255
    return pixels_0_255.byte().permute(1, 2, 0).numpy()


def _facts(setting: Setting, batch: Batch, skipped: int) -> dict[str, str]:
    facts = {"samples": f"{len(batch)} of batches of {setting.recipe.data.size_in_words.removesuffix(' samples')}"}
    facts["captions"] = setting.recipe.data.captions
    if skipped:
        facts["left out"] = f"{skipped} that cannot be read"
    if batch.images is not None:
        pixels = batch.images.pixels
        facts["pixels"] = (
            f"{tuple(pixels.shape)} {_dtype(pixels)}, {float(pixels.min()):.2f} to {float(pixels.max()):.2f}"
        )
    if batch.texts is not None:
        tokens, positions = int(batch.texts.lengths_B.sum()), batch.texts.ids_BT.numel()
        facts["tokens"] = f"{tuple(batch.texts.ids_BT.shape)}; {1 - tokens / positions:.0%} padding"
    if batch.stream is not None:
        length, targets = len(batch.stream.ids_T), int(batch.stream.target_T.sum())
        facts["tokens"] = f"{length:,} in one stream; {targets / length:.1%} learned"
        facts["image tokens"] = f"{int(batch.stream.image_mask_T.sum()):,} for {len(batch.images or ())} pictures"
    if setting.transform is not None:
        augment = setting.transform.augment
        facts["augmentation"] = "none" if augment is None else f"area {augment.area}, flip {augment.flip:g}"
    return facts


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def image_of(shown: ShownSample) -> Sample:
    """A shown sample as a sample for a contact sheet, its text as the caption."""
    return Sample(shown.key, tuple(Image(pixels) for pixels in shown.images[:1]), captions=(shown.text,))
