"""Per-item results in a JSON lines file, which people and `chiasm compare` read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chiasm.data.image import Image
from chiasm.errors import CheckpointError
from chiasm.evaluation.files import write_file
from chiasm.evaluation.request import Request, Response
from chiasm.evaluation.statistics import Difference, compare, members_by_kind
from chiasm.evaluation.task import MetricCounts

ANSWERS = "answers"  # a folder beside results.json
IMAGES = f"{ANSWERS}/images"  # responses that are images, as PNG, named by the hash of the file


def images_of(requests: Sequence[Request], responses: Sequence[Response]) -> dict[str, str]:
    """The file names of responses that are images, by the request's key."""
    pairs = zip(requests, responses, strict=True)
    return {request.key: f"{response.key}.png" for request, response in pairs if isinstance(response, Image)}


def write(metrics: Sequence[MetricCounts], file: Path, images: Mapping[str, str]) -> None:
    """One line an item: its key, sample, kind, what the model answered, and the credit it earned by metric.

    Where a metric is a ratio of sums, "weight" holds what stands under the line; a mean of kinds is such a ratio too.
    images: the file of each item's answer that is an image, in IMAGES.
    """
    by_items: dict[int, list[MetricCounts]] = {}
    for metric in metrics:
        by_items.setdefault(id(metric.items), []).append(metric)
    records = [record for several in by_items.values() for record in _records(several, images)]
    write_file(file, "".join(json.dumps(record) + "\n" for record in records))


def _records(metrics: Sequence[MetricCounts], images: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The lines of metrics that are of the same items."""
    items = metrics[0].items
    tied, failed = items.tied_I.tolist(), items.failed_I.tolist()
    unparsed = [False] * len(items.keys) if items.unparsed_I is None else items.unparsed_I.tolist()
    parts = {_item_name(metric): _parts(metric) for metric in metrics}
    credit = {name: credit_I.tolist() for name, (credit_I, _) in parts.items()}
    weight = {name: weight_I.tolist() for name, (_, weight_I) in parts.items() if weight_I is not None}
    for at, key in enumerate(items.keys):
        record = {
            "key": key,
            "sample": items.samples[at],
            "kind": items.kinds[at],
            "answer": items.choices[at],
            "tied": tied[at],
            "failed": failed[at],
            "credit": {name: values[at] for name, values in credit.items()},
        }
        if key in images:
            record["image"] = images[key]
        if unparsed[at]:
            record["unparsed"] = True
        if weight:
            record["weight"] = {name: values[at] for name, values in weight.items()}
        yield record


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
class Outcome:
    """What a run answered of one item, and the item's kind and sample. image: a file in IMAGES, or ""."""

    answer: str
    kind: str
    sample: str
    image: str = ""


def differences(ours: Mapping[str, Metric], theirs: Mapping[str, Metric], most: int | None = None) -> list[Difference]:
    """Every metric that two files of answers share (see `read`), or the first `most` of them, the headline first.

    Raises DataError where they hold unlike items.
    """
    found = []
    for name in [name for name in ours if name in theirs][:most]:
        metric, other = ours[name], theirs[name]
        weights = (metric.weight, other.weight) if metric.weight and other.weight else None
        found.append(compare(name, metric.credit, other.credit, metric.sample, weights=weights))
    return found


def read(file: Path) -> tuple[dict[str, Metric], dict[str, dict[str, Outcome]]]:
    """The metrics of a file of answers, by name, and the outcome of each metric's items, by key.

    Raises CheckpointError, naming the line, for what `write` has not written.
    """
    metrics: dict[str, Metric] = {}
    outcomes: dict[str, dict[str, Outcome]] = {}
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                key, weights = record["key"], record.get("weight", {})
                credits_by_name = {name: float(credit) for name, credit in record["credit"].items()}
                outcome = Outcome(record["answer"], record["kind"], record["sample"], record.get("image", ""))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(
                    f"{file}, line {number}, is no line of answers; run `chiasm eval` again"
                ) from error
            for name, credit in credits_by_name.items():
                metric = metrics.setdefault(name, Metric())
                metric.credit[key], metric.sample[key] = credit, outcome.sample
                outcomes.setdefault(name, {})[key] = outcome
                if name in weights:
                    metric.weight[key] = weights[name]
    return metrics, outcomes
