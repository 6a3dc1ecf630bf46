"""Checks for too few shards for the readers, and for shards of very unequal length."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from chiasm.diagnosis.check import Check
from chiasm.diagnosis.finding import Finding, FlaggedRows
from chiasm.diagnosis.seen import Seen
from chiasm.diagnosis.setting import Setting

_SHORT = 0.25  # of the mean length: below, a shard is called short


class Shards(Check):
    """Counts the samples of each shard, by their keys: "shard/key"."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._sharded = setting.recipe.data.train.in_shards
        self._counts: Counter[str] = Counter()

    def see(self, seen: Seen) -> None:
        if self._sharded and seen.sample is not None:
            self._counts[seen.sample.key.rpartition("/")[0]] += 1

    def findings(self) -> Iterator[Finding]:
        if not self._counts:
            return
        ranks, threads = int(os.environ.get("WORLD_SIZE", "1")), self.setting.recipe.data.threads
        shards, readers = len(self._counts), ranks * threads
        if shards < readers:
            yield self.found(
                "warning",
                f"{shards} shards for {readers} readers ({ranks} ranks x {threads} threads)",
                "Readers that share a shard wait for one disk; tools that give each reader shards of its own hang or "
                "starve.",
                f"Write at least {readers} shards, or set data.threads to fewer.",
                figures={"shards": shards, "readers": readers},
            )
        mean = sum(self._counts.values()) / shards
        short = FlaggedRows()
        for name, count in sorted(self._counts.items()):
            if count < _SHORT * mean:
                short.add(f"shard {name}", f"{count:,} samples of those read, {mean:,.0f} in the mean")
        if short.count:
            yield self.found(
                "warning",
                "shards much shorter than the others",
                "Tools that give each reader shards of its own run out on one of them and wait for the others; often "
                "such a shard was cut short.",
                "Write shards of equal length.",
                rows=short,
                of=shards,
            )
