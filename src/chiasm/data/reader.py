"""Endless training batches from a source: shuffled, prepared ahead, resumable, no sample lost in silence."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from chiasm.data.batch import Batch
from chiasm.data.processor import Processor
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import DataError

log = logging.getLogger(__name__)

CaptionChoice = Literal["random", "first", "mixed", "keep"]

_JUDGED_FROM = 200  # samples seen before the share of failures is held against the limit


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be used, and why."""

    key: str
    reason: str


@dataclass
class Skips:
    """The samples that were left out: how many of how many, by reason."""

    seen: int = 0
    count: int = 0
    samples: list[Skipped] = field(default_factory=list)  # of this sitting; `seen` and `count` go on after a resume

    def reasons(self) -> Counter[str]:
        """How many were left out, by reason."""
        return Counter(skipped.reason for skipped in self.samples)


class Reader:
    """Batches of `batch_size` samples, without end.

    The rule: the sample at position p of the data follows from (seed, p) alone. `Source.at` says which it is (epoch
    after epoch, each shuffled anew; see there for mixtures and shards), and its caption and augmentation are drawn from
    a generator seeded with (seed, p). So `position`, the number of samples handed out so far by all ranks together, is
    all the state there is, and
    - a reader that starts where another stopped goes on with exactly the samples that were left, each as it would
      have been, whatever the number of threads and of ranks was before and is now, at the same global batch;
    - ranks read slices of every global batch, in order: laid side by side they are the batch of one process;
    - threads prepare batches ahead of time and decide nothing: another number of them gives the same batches;
    - shards are not dealt out to readers, so it does not matter whether there are fewer of them: none waits,
      none repeats.
    A sample that cannot be read leaves its place empty; nothing moves up.

    captions: "random" makes a pair of a sample's picture and one of its captions, drawn anew each epoch; "first"
        takes the first; "mixed" takes the first in half of the draws and one of the others else, for sources whose
        first caption tells everything; "keep" hands samples on as they are (chats, documents).
    max_skipped: largest share of unreadable samples; above it the run stops with DataError.
    ahead: batches prepared in the background, by `threads` threads.
    """

    def __init__(
        self,
        source: Source,
        processor: Processor,
        batch_size: int,
        *,
        seed: int = 0,
        position: int = 0,
        captions: CaptionChoice = "random",
        max_skipped: float = 0.01,
        ahead: int = 2,
        threads: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if len(source) == 0:
            raise DataError("the training source is empty; check its path and its split")
        if batch_size < 1 or threads < 1:
            raise DataError(f"a reader needs batches and threads of at least 1, not {batch_size} and {threads}")
        if batch_size > len(source):
            raise DataError(
                f"a batch of {batch_size} samples is larger than the source of {len(source)}, so a sample would "
                "stand in it twice; set data.batch_size"
            )
        if batch_size % ranks:
            raise DataError(f"a batch of {batch_size} samples cannot be shared evenly by {ranks} processes")
        self.source, self.processor = source, processor
        self.batch_size, self.seed, self.position = batch_size, seed, position
        self.captions, self.max_skipped = captions, max_skipped
        self.ahead, self.threads = ahead, threads
        self.rank, self.ranks = rank, ranks
        self.skips = Skips()

    def __iter__(self) -> Iterator[Batch]:
        empty = 0
        for batch in self.shares():
            empty = 0 if batch is not None else empty + self.batch_size
            self.judge(self.skips.seen, self.skips.count, empty)
            if batch is not None:
                yield batch

    def shares(self) -> Iterator[Batch | None]:
        """This rank's share of each batch, None where none of its samples could be read; whoever asks is to `judge`."""
        start = self.position
        with ThreadPoolExecutor(max_workers=self.threads, thread_name_prefix="reader") as pool:
            waiting: deque[tuple[int, Future[tuple[Batch | None, list[Skipped]]]]] = deque()
            try:
                while True:
                    while len(waiting) <= self.ahead:
                        waiting.append((start, pool.submit(self.batch_at, start)))
                        start += self.batch_size
                    position, future = waiting.popleft()
                    batch, skipped = future.result()
                    self.position = position + self.batch_size
                    self._count(skipped)
                    yield batch
            finally:
                for _, future in waiting:
                    future.cancel()

    def sample_at(self, position: int) -> tuple[Sample, np.random.Generator]:
        """The sample at a position of the data, with the generator that draws its caption and augmentation."""
        generator = np.random.default_rng((self.seed, position))
        sample = self.source[self._index(position)]
        if self.captions == "keep":
            return sample, generator
        if not sample.captions:
            raise DataError(f"sample '{sample.key}' has no caption; data.captions: keep hands it on as it is")
        return sample.with_caption(self._chosen(sample.captions, generator)), generator

    def _index(self, position: int) -> int:
        return self.source.at(position, self.seed)

    def _chosen(self, captions: Sequence[str], generator: np.random.Generator) -> str:
        if self.captions == "first" or len(captions) == 1:
            return captions[0]
        if self.captions == "mixed" and generator.random() < 0.5:
            return captions[0]
        others_from = 1 if self.captions == "mixed" else 0
        return captions[int(generator.integers(others_from, len(captions)))]

    def batch_at(self, position: int) -> tuple[Batch | None, list[Skipped]]:
        """This rank's part of the batch that starts at a position, and the samples that had to be left out."""
        share = self.batch_size // self.ranks
        first = position + self.rank * share
        return self._read(first, first + share)

    def evened(self) -> Batch | None:
        """This rank's even part of what is sound in the batch that `position` now stands behind.

        For the rare batch of which a rank has nothing else: all of it is read again, so it takes `ranks` times as long.
        """
        batch, _ = self._read(self.position - self.batch_size, self.position)
        return batch.split(self.ranks)[self.rank] if batch is not None and len(batch) >= self.ranks else None

    def _read(self, first: int, last: int) -> tuple[Batch | None, list[Skipped]]:
        drawn, skipped = [], []
        for place in range(first, last):
            try:
                drawn.append(self.sample_at(place))
            except DataError as error:
                skipped.append(Skipped(self.source.called(self._index(place)), str(error)))
        try:
            return self._processed(drawn), skipped
        except DataError:
            # One of the samples is broken; looking for it is worth the time only now.
            sound = []
            for pair in drawn:
                try:
                    self._processed([pair])
                    sound.append(pair)
                except DataError as error:
                    skipped.append(Skipped(pair[0].key, str(error)))
            return self._processed(sound), skipped

    def _processed(self, drawn: list[tuple[Sample, np.random.Generator]]) -> Batch | None:
        if not drawn:
            return None
        return self.processor([sample for sample, _ in drawn], [generator for _, generator in drawn])

    def _count(self, skipped: list[Skipped]) -> None:
        self.skips.seen += self.batch_size // self.ranks
        for one in skipped:
            if one not in self.skips.samples:  # the same sample comes again every epoch
                log.warning("skipped %s: %s", one.key, one.reason)
        self.skips.samples += skipped
        self.skips.count += len(skipped)

    def judge(self, seen: int, skipped: int, empty: int) -> None:
        """Raises DataError if too many samples could not be read: `skipped` of all that were seen (above max_skipped),
        or each of the last `empty` (as many as the source has)."""
        if empty >= len(self.source):
            raise DataError(f"none of the last {empty} samples could be read{self._last_skip()}")
        if seen >= min(_JUDGED_FROM, len(self.source)) and skipped > self.max_skipped * seen:
            raise DataError(
                f"{skipped / seen:.1%} of the first {seen} samples could not be read, more than the "
                f"{self.max_skipped:.1%} that data.max_skipped allows{self._last_skip()}"
            )

    def _last_skip(self) -> str:
        if not self.skips.samples:
            return ""
        last = self.skips.samples[-1]
        return f"; the last was {last.key}: {last.reason}"
