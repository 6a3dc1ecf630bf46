"""What became of every item, in a file that people and `compare` read: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chiasm.errors import CheckpointError
from chiasm.evaluation.statistics import Difference, compare, members_by_kind
from chiasm.evaluation.task import MetricCounts

ANSWERS = "answers"  # a folder beside results.json


def write(metrics: Sequence[MetricCounts], file: Path) -> None:
    """One line an item: its key, sample, kind, what the model chose, and the credit it earned by metric.

    Where a metric is a ratio of sums, "weight" holds what stands under the line; a mean of kinds is such a ratio too.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    together: dict[int, list[MetricCounts]] = {}
    for metric in metrics:
        together.setdefault(id(metric.items), []).append(metric)
    aside = file.with_name(file.name + ".new")
    with aside.open("w", encoding="utf-8") as lines:
        for several in together.values():
            items = several[0].items
            tied, failed = items.tied_I.tolist(), items.failed_I.tolist()
            unparsed = [False] * len(items.keys) if items.unparsed_I is None else items.unparsed_I.tolist()
            names, parts = [_item_name(metric) for metric in several], [_parts(metric) for metric in several]
            credits_I = zip(*(credit_I.tolist() for credit_I, _ in parts), strict=True)
            weights = {
                name: weight_I.tolist()
                for name, (_, weight_I) in zip(names, parts, strict=True)
                if weight_I is not None
            }
            for at, credit in enumerate(credits_I):
                record = {
                    "key": items.keys[at],
                    "sample": items.samples[at],
                    "kind": items.kinds[at],
                    "said": items.said[at],
                    "tied": tied[at],
                    "failed": failed[at],
                    "credit": dict(zip(names, credit, strict=True)),
                }
                if unparsed[at]:
                    record["unparsed"] = True
                if weights:
                    record["weight"] = {name: weight_I[at] for name, weight_I in weights.items()}
                lines.write(json.dumps(record) + "\n")
    aside.replace(file)


def _parts(metric: MetricCounts) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Credits and weights whose ratio of sums is the metric; None where it is the plain mean of the credits."""
    if metric.mean == "items":
        return metric.credit_I, metric.weight_I
    weight_I, kinds = np.zeros(len(metric.credit_I)), members_by_kind(metric)
    for members in kinds.values():
        weight_I[members] = len(weight_I) / (len(kinds) * len(members))
    return metric.credit_I * weight_I, weight_I


def _item_name(metric: MetricCounts) -> str:
    return metric.name if metric.corpus is None else metric.corpus.item


@dataclass
class Metric:
    """One metric of one run, by item key. weight: empty unless the metric is a ratio of sums."""

    credit: dict[str, float] = field(default_factory=dict)
    sample: dict[str, str] = field(default_factory=dict)
    weight: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Said:
    """What a run said of one item, and the item's kind and sample."""

    said: str
    kind: str
    sample: str


def differences(first: Path, second: Path) -> list[Difference]:
    """Every metric that two files of answers share. Raises DataError where they hold unlike items."""
    ours, theirs = read(first)[0], read(second)[0]
    found = []
    for name in ours:
        if name in theirs:
            one, other = ours[name], theirs[name]
            weights = (one.weight, other.weight) if one.weight and other.weight else None
            found.append(compare(name, one.credit, other.credit, one.sample, weights=weights))
    return found


def read(file: Path) -> tuple[dict[str, Metric], dict[str, dict[str, Said]]]:
    """The metrics of a file of answers, by name, and what was said of each metric's items, by key.

    Raises CheckpointError, naming the line, for what `write` has not written.
    """
    metrics: dict[str, Metric] = {}
    said: dict[str, dict[str, Said]] = {}
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                key, earned = record["key"], record["credit"]
                told = Said(record["said"], record["kind"], record["sample"])
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"{file}, line {number}, is no line of answers; run `chiasm eval` again"
                ) from error
            for name, credit in earned.items():
                metric = metrics.setdefault(name, Metric())
                metric.credit[key], metric.sample[key] = credit, told.sample
                said.setdefault(name, {})[key] = told
                if name in record.get("weight", {}):
                    metric.weight[key] = record["weight"][name]
    return metrics, said
