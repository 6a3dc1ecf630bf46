"""Endless training batches from a source: shuffled, prepared ahead, resumable, no sample lost in silence."""

from __future__ import annotations

import copy
import logging
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

import numpy as np

from chiasm.data.batch import Batch
from chiasm.data.processor import Cost, Processor
from chiasm.data.sample import Sample
from chiasm.data.source import Source
from chiasm.errors import DataError

log = logging.getLogger(__name__)

# What a processor made of samples, with more that is read or drawn for them.
Extend = Callable[[Processor, Batch, Sequence[Sample], Sequence[np.random.Generator]], Batch]
CaptionChoice = Literal["random", "first", "mixed", "keep"]

_JUDGED_FROM = 200  # samples seen before the share of failures is held against the limit


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be used, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Budget:
    """How much a batch of all ranks may hold: tokens, pictures included, and of these image tokens.

    A batch takes as many of the next samples as fit. What a sample needs is known before a picture is decoded.
    """

    tokens: int
    image_tokens: int | None = None

    def holds(self, cost: Cost) -> bool:
        return cost.tokens <= self.tokens and (self.image_tokens is None or cost.image_tokens <= self.image_tokens)

    def share(self, ranks: int) -> Budget:
        """The most that one sample may need, so that there is one for each rank."""
        return Budget(self.tokens // ranks, self.image_tokens // ranks if self.image_tokens is not None else None)

    def __str__(self) -> str:
        image_tokens = f" and {self.image_tokens} image tokens" if self.image_tokens is not None else ""
        return f"{self.tokens} tokens{image_tokens}"


@dataclass(frozen=True)
class Span:
    """The positions of one batch, up to but not including `last`. bounds: where each rank's share begins, and the end.

    drawn: what was read to find that out, by position; None where nothing was read yet.
    """

    first: int
    last: int
    bounds: tuple[int, ...]
    drawn: Mapping[int, tuple[Sample, np.random.Generator] | Skipped] | None = None


@dataclass
class Skips:
    """The samples that were left out: how many of how many, by reason."""

    seen: int = 0
    count: int = 0
    samples: list[Skipped] = field(default_factory=list)  # of this sitting; `seen` and `count` go on after a resume

    def reasons(self) -> Counter[str]:
        """The number of samples left out, by reason."""
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
    A sample that cannot be read leaves its position empty; nothing moves up.

    captions: "random" makes a pair of a sample's picture and one of its captions, drawn anew each epoch; "first"
        takes the first; "mixed" takes the first in half of the draws and one of the others else, for sources whose
        first caption tells everything; "keep" hands samples on as they are (chats, documents).
    budget: batches of as many samples as fit in it, in place of `batch_size` samples. Where a batch ends follows from
        where it begins, so `position` is still all the state there is, and all ranks have batches of the same number.
        A sample that alone needs more than the budget's share for one rank is skipped like an unreadable one.
    max_skipped: largest share of unreadable samples; above it the run stops with DataError.
    ahead: batches prepared in the background, by `threads` threads.
    extend: adds to each batch what an objective needs beside it; draws from the samples' generators.
    """

    def __init__(
        self,
        source: Source,
        processor: Processor,
        batch_size: int = 0,
        *,
        budget: Budget | None = None,
        seed: int = 0,
        position: int = 0,
        captions: CaptionChoice = "random",
        max_skipped: float = 0.01,
        ahead: int = 2,
        threads: int = 1,
        rank: int = 0,
        ranks: int = 1,
        extend: Extend | None = None,
    ) -> None:
        if len(source) == 0:
            raise DataError("the training source is empty; check its path and its split")
        if budget is not None and not processor.packs:
            raise DataError(
                "data.batch_tokens is for models that read samples as one stream; give data.batch_size for this one"
            )
        if (budget is None) != (batch_size > 0) or threads < 1:
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
        self.rank, self.ranks, self.budget = rank, ranks, budget
        self.extend = extend
        self.skips = Skips()
        self.span = Span(position, position, (position,) * (ranks + 1))  # of the batch that was handed out last

    def __iter__(self) -> Iterator[Batch]:
        empty = 0
        with closing(self.shares()) as shares:
            for batch in shares:
                empty = 0 if batch is not None else empty + self.handed
                self.judge(self.skips.seen, self.skips.count, empty)
                if batch is not None:
                    yield batch

    @property
    def handed(self) -> int:
        """The number of positions in the last batch, over all ranks."""
        return self.span.last - self.span.first

    def shares(self) -> Generator[Batch | None]:
        """This rank's share of each batch, None where none of its samples could be read; whoever asks is to `judge`.

        Whoever stops asking is to close it: that ends its threads, and must not be left to one of them.
        """
        spans = self._spans(self.position)
        with (
            ThreadPoolExecutor(max_workers=1, thread_name_prefix="planner") as planner,
            ThreadPoolExecutor(max_workers=self.threads, thread_name_prefix="reader") as pool,
        ):
            pending: deque[Future[tuple[Span, Batch | None, list[Skipped]]]] = deque()
            try:
                while True:
                    while len(pending) <= self.ahead:
                        pending.append(pool.submit(self._share, self._next(spans, planner)))
                    self.span, batch, skipped = pending.popleft().result()
                    self.position = self.span.last
                    self._count(skipped)
                    yield batch
            finally:
                for future in pending:
                    future.cancel()

    def _next(self, spans: Iterator[Span], planner: ThreadPoolExecutor) -> Future[Span]:
        """The next batch's positions; in the background where samples have to be read to find them out."""
        if self.budget is not None:
            return planner.submit(next, spans)
        known: Future[Span] = Future()
        known.set_result(next(spans))
        return known

    def _spans(self, first: int) -> Iterator[Span]:
        while True:
            span = self.span_at(first)
            yield span
            first = span.last

    def span_at(self, first: int) -> Span:
        """The batch that begins at a position: up to where it goes, and how the ranks share it."""
        if self.budget is None:
            share = self.batch_size // self.ranks
            last = first + self.batch_size
            return Span(first, last, tuple(range(first, last + 1, share)))
        return self._filled(first, self.budget)

    def _filled(self, first: int, budget: Budget) -> Span:
        drawn: dict[int, tuple[Sample, np.random.Generator] | Skipped] = {}
        costs: list[int] = []  # tokens of each position
        held = Cost(0)
        for position in range(first, first + len(self.source)):
            try:
                found = self.sample_at(position)
                cost = self.processor.cost(found[0])
                if not budget.share(self.ranks).holds(cost):
                    raise DataError(
                        f"sample '{found[0].key}' has {cost.tokens} tokens, {cost.image_tokens} of them for its "
                        f"pictures; a batch of {budget} for {self.ranks} processes has no room for it: "
                        "raise data.batch_tokens"
                        + (" or data.batch_image_tokens" if budget.image_tokens is not None else "")
                    )
            except DataError as error:
                drawn[position] = Skipped(self.source.called(self._index(position)), str(error))
                costs.append(0)
                continue
            more = Cost(held.tokens + cost.tokens, held.image_tokens + cost.image_tokens)
            if not budget.holds(more):
                break
            held = more
            drawn[position] = found
            costs.append(cost.tokens)
        return Span(first, first + len(costs), _even(first, costs, self.ranks), drawn)

    def _share(self, span: Future[Span]) -> tuple[Span, Batch | None, list[Skipped]]:
        found = span.result()
        return found, *self._of_rank(found)

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
        return self._of_rank(self.span_at(position))

    def _of_rank(self, span: Span) -> tuple[Batch | None, list[Skipped]]:
        return self._read(span, span.bounds[self.rank], span.bounds[self.rank + 1])

    def evened(self) -> Batch | None:
        """This rank's even part of what is sound in the batch that was handed out last.

        For the rare batch of which a rank has nothing else: all of it is read again, so it takes `ranks` times as long.
        """
        batch, _ = self._read(self.span_at(self.span.first), self.span.first, self.span.last)
        return batch.split(self.ranks)[self.rank] if batch is not None and len(batch) >= self.ranks else None

    def _read(self, span: Span, first: int, last: int) -> tuple[Batch | None, list[Skipped]]:
        drawn: dict[int, tuple[Sample, np.random.Generator]] = {}
        skipped: list[Skipped] = []
        for position in range(first, last):
            try:
                found = span.drawn[position] if span.drawn is not None else self.sample_at(position)
            except DataError as error:
                found = Skipped(self.source.called(self._index(position)), str(error))
            if isinstance(found, Skipped):
                skipped.append(found)
            else:
                drawn[position] = found
        try:
            return self._processed([*drawn.values()]), skipped
        except DataError:
            # One of the samples is broken; looking for it is worth the time only now. Each is read again, for its
            # generator has been drawn from, and what else is in the batch must not change how a sample is seen.
            sound = []
            for position, (known, _) in drawn.items():
                try:
                    sample, generator = self.sample_at(position)
                    self._processed([(sample, copy.deepcopy(generator))])
                    sound.append((sample, generator))
                except DataError as error:
                    skipped.append(Skipped(known.key, str(error)))
            return self._processed(sound), skipped

    def _processed(self, drawn: list[tuple[Sample, np.random.Generator]]) -> Batch | None:
        if not drawn:
            return None
        samples, generators = [sample for sample, _ in drawn], [generator for _, generator in drawn]
        batch = self.processor(samples, generators)
        return batch if self.extend is None else self.extend(self.processor, batch, samples, generators)

    def _count(self, skipped: list[Skipped]) -> None:
        self.skips.seen += self.span.bounds[self.rank + 1] - self.span.bounds[self.rank]
        for sample in skipped:
            if sample not in self.skips.samples:  # the same sample comes again every epoch
                log.warning("skipped %s: %s", sample.key, sample.reason)
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


def _even(first: int, costs: Sequence[int], ranks: int) -> tuple[int, ...]:
    """Bounds that cut positions into `ranks` parts of about equal cost, in order, each with one that costs something.

    Where there are not so many, some part has none.
    """
    bounds, up_to = [first], [*accumulate(costs, initial=0)]
    for rank in range(1, ranks):
        due = up_to[-1] * rank / ranks
        cut = min(range(len(up_to)), key=lambda at, due=due: abs(up_to[at] - due))  # type: ignore[misc]
        bounds.append(first + cut)
    bounds.append(first + len(costs))
    full = [at for at, cost in enumerate(costs) if cost]
    if len(full) >= ranks:  # one for each, whatever the costs: from the front, then from the back
        for rank in range(1, ranks):
            bounds[rank] = max(bounds[rank], first + next(at for at in full if at >= bounds[rank - 1] - first) + 1)
        for rank in range(ranks - 1, 0, -1):
            bounds[rank] = min(bounds[rank], first + max(at for at in full if at < bounds[rank + 1] - first))
    return tuple(bounds)
