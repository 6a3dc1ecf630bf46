"""What became of every item, in a file that people and `compare` read: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chiasm.errors import CheckpointError, DataError
from chiasm.evaluation.statistics import Difference, compare
from chiasm.evaluation.task import Tally

ANSWERS = "answers"  # a folder beside results.json


def write(tallies: Sequence[Tally], file: Path) -> None:
    """One line an item: its key, sample, kind, what the model chose, and the credit it earned by metric."""
    file.parent.mkdir(parents=True, exist_ok=True)
    together: dict[int, list[Tally]] = {}
    for tally in tallies:
        together.setdefault(id(tally.items), []).append(tally)
    aside = file.with_name(file.name + ".new")
    with aside.open("w", encoding="utf-8") as lines:
        for several in together.values():
            items = several[0].items
            tied, failed = items.tied_I.tolist(), items.failed_I.tolist()
            credits_I = zip(*(tally.credit_I.tolist() for tally in several), strict=True)
            for at, credit in enumerate(credits_I):
                record = {
                    "key": items.keys[at],
                    "sample": items.samples[at],
                    "kind": items.kinds[at],
                    "said": items.said[at],
                    "tied": tied[at],
                    "failed": failed[at],
                    "credit": dict(zip((tally.name for tally in several), credit, strict=True)),
                }
                lines.write(json.dumps(record) + "\n")
    aside.replace(file)


@dataclass
class _Metric:
    credit: dict[str, float] = field(default_factory=dict)
    sample: dict[str, str] = field(default_factory=dict)


def compare_runs(first: Path, second: Path) -> dict[str, list[Difference]]:
    """Two evaluation folders item by item: for each task that both hold, every metric's difference.

    Raises CheckpointError where a folder holds no answers, DataError where they share no task or asked unlike items.
    """
    files = [{file.name: file for file in (folder / ANSWERS).glob("*.jsonl")} for folder in (first, second)]
    for folder, found in zip((first, second), files, strict=True):
        if not found:
            raise CheckpointError(f"{folder} holds no {ANSWERS}/*.jsonl; run `chiasm eval` first")
    shared = sorted(files[0].keys() & files[1].keys())
    if not shared:
        raise DataError(f"{first} and {second} share no task; evaluate both models on the same tasks")
    return {name.removesuffix(".jsonl"): _differences(files[0][name], files[1][name]) for name in shared}


def _differences(first: Path, second: Path) -> list[Difference]:
    ours, theirs = _read(first), _read(second)
    return [compare(name, ours[name].credit, theirs[name].credit, ours[name].sample) for name in ours if name in theirs]


def _read(file: Path) -> dict[str, _Metric]:
    found: dict[str, _Metric] = {}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            for name, credit in record["credit"].items():
                metric = found.setdefault(name, _Metric())
                metric.credit[record["key"]] = credit
                metric.sample[record["key"]] = record["sample"]
    return found
