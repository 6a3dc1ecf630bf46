"""Finds pictures of an index by words, by pictures, by both, and sorts them by a list of names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from chiasm.data.image import Image
from chiasm.data.vectors import GrowingArray
from chiasm.errors import ChiasmError, DataError, MissingExtra
from chiasm.evaluation.templates import OPENAI
from chiasm.serving.index import Index, IndexEntry

if TYPE_CHECKING:
    import usearch.index

EXACT_UP_TO = 100_000  # pictures that are all compared with the query: 10 ms at 512 numbers each
_ROWS = 8192  # vectors multiplied together; bounds memory
_SPREAD = 4096  # vectors by which the spread of a query's scores is estimated


@dataclass(frozen=True)
class Hit:
    """A picture and the cosine between its vector and the query's."""

    entry: IndexEntry
    score: float


@dataclass(frozen=True)
class Sorted:
    """Pictures by name. best_N: which of the names fits each entry best; probability_N: the model's, for that name."""

    names: tuple[str, ...]
    entries: tuple[IndexEntry, ...]
    best_N: NDArray[np.int64]
    probability_N: NDArray[np.float32]

    def counts(self) -> dict[str, int]:
        """How many pictures each name fits best, the most frequent first."""
        counts = np.bincount(self.best_N, minlength=len(self.names)).tolist()
        return dict(sorted(zip(self.names, counts, strict=True), key=lambda item: -item[1]))


class Finder:
    """Answers queries over an index as it is now. Up to `exact_up_to` pictures every one is compared; above it a graph
    (HNSW, Malkov and Yashunin 2016, arXiv:1603.09320, by usearch) names candidates, which are then compared exactly.

    Raises MissingExtra where the graph is needed and usearch is not installed.
    """

    def __init__(self, index: Index, exact_up_to: int = EXACT_UP_TO) -> None:
        self.index, self.embedder = index, index.embedder
        self.entries, self.vectors = index.entries()
        self._rows = np.asarray(self.vectors.rows())  # mapped, not read
        self._row_N = np.array([entry.row for entry in self.entries], np.int64)
        self._by_row = np.argsort(self._row_N, kind="stable")  # copies of a picture share a row
        self._graph = _graph(index, self.vectors) if len(self.entries) > exact_up_to else None

    def query(
        self, texts: Sequence[str] = (), images: Sequence[Image] = (), entries: Sequence[IndexEntry] = ()
    ) -> NDArray[np.float32]:
        """The unit vector, (D,), of words, of pictures, of entries of the index, or of several of them together.

        Pictures lie far closer to each other than to any text, so each part counts by how far its scores over the
        index spread: a score of the sum is then the sum of the parts' standard scores, whose constant does not matter.
        Raises ChiasmError for an empty query, DataError for a picture that cannot be read.
        """
        if not texts and not images and not entries:
            raise ChiasmError("say what to look for: words, a picture, or both")
        parts = [self.embedder.embed_texts([text])[0] for text in texts]
        parts += [self.embedder.embed_images([image])[0] for image in images]
        parts += [torch.from_numpy(self._rows[[entry.row]])[0] for entry in entries]
        parts_PD = torch.stack(parts).float().cpu().numpy().astype(np.float64)
        if len(parts) > 1 and self.entries:
            step = max(1, len(self.entries) // _SPREAD)
            spread_P = (self._rows[self._row_N[::step]] @ parts_PD.T).std(axis=0)
            parts_PD = parts_PD / np.maximum(spread_P, 1e-6)[:, None]
        whole_D = parts_PD.sum(axis=0)
        unit: NDArray[np.float32] = (whole_D / max(float(np.linalg.norm(whole_D)), 1e-12)).astype(np.float32)
        return unit

    def find(self, query_D: NDArray[np.float32], top: int = 20) -> list[Hit]:
        """The best pictures, best first; of equal ones the first by name leads."""
        if top < 1:
            raise ChiasmError(f"--top must be at least 1, not {top}")
        if self._graph is None:
            entries_c = np.arange(len(self.entries))
            scores_c = _products(self._rows, query_D)[self._row_N]
        else:
            entries_c = self._candidates(self._graph, query_D, top)
            scores_c = self._rows[self._row_N[entries_c]] @ query_D
        if len(scores_c) > top:  # all that is level with the last one, too, so that names decide between them
            level_c = scores_c >= np.partition(scores_c, -top)[-top]
            entries_c, scores_c = entries_c[level_c], scores_c[level_c]
        best_c = np.lexsort((entries_c, -scores_c))[:top]
        return [Hit(self.entries[entries_c[at]], float(scores_c[at])) for at in best_c]

    def sort(self, names: Sequence[str], templates: Sequence[str] = OPENAI) -> Sorted:
        """Zero-shot classification of every picture among names (Radford et al. 2021, arXiv:2103.00020, section 3.1).

        A name is the mean of its sentences. Probabilities are the model's own: a softmax over the names at its learned
        temperature, or, for a model that judges each pair alone (SigLIP), the sigmoid of the best name.
        """
        if len(names) < 2 or len(set(names)) < len(names):
            raise ChiasmError("give at least two names, all different, such as --names cat,dog,car")
        if broken := [template for template in templates if "{}" not in template]:
            raise ChiasmError(f"the template '{broken[0]}' has no {{}} for the name")
        scale, bias = self.index.model.logit_scale_and_bias()
        names_CD = np.stack([self._name(name, templates) for name in names])
        best_N, probability_N = np.zeros(len(self.entries), np.int64), np.zeros(len(self.entries), np.float32)
        for at in range(0, len(self.entries), _ROWS):
            logits_nC = scale * (self._rows[self._row_N[at : at + _ROWS]] @ names_CD.T).astype(np.float64)
            best_N[at : at + _ROWS] = logits_nC.argmax(axis=1)
            logits = torch.from_numpy(logits_nC)
            chances = logits.softmax(dim=1) if bias is None else (logits + bias).sigmoid()
            probability_N[at : at + _ROWS] = chances.max(dim=1).values.numpy()
        return Sorted(tuple(names), tuple(self.entries), best_N, probability_N)

    def _name(self, name: str, templates: Sequence[str]) -> NDArray[np.float32]:
        mean_D = self.embedder.embed_texts([template.replace("{}", name) for template in templates]).float().mean(dim=0)
        unit: NDArray[np.float32] = torch.nn.functional.normalize(mean_D, dim=0).cpu().numpy()
        return unit

    def _candidates(self, graph: usearch.index.Index, query_D: NDArray[np.float32], top: int) -> NDArray[np.int64]:
        """Entries among which the best are. Vectors of removed pictures are still in the graph: more are asked for."""
        rows, wanted = self._row_N[self._by_row], 2 * top + 64
        while wanted < len(graph):
            found_c = np.sort(graph.search(query_D, wanted).keys.astype(np.int64))
            starts, ends = np.searchsorted(rows, found_c), np.searchsorted(rows, found_c, side="right")
            ranges = [self._by_row[start:end] for start, end in zip(starts, ends, strict=True)]
            entries_c = np.concatenate(ranges) if ranges else np.empty(0, np.int64)
            if len(entries_c) >= top:
                return entries_c
            wanted *= 4
        return np.arange(len(self.entries))


def _products(rows_ND: NDArray[np.floating], query_D: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scores of all vectors, (N,), read through a window."""
    scores_N = np.empty(len(rows_ND), np.float32)
    for at in range(0, len(rows_ND), _ROWS):
        scores_N[at : at + _ROWS] = rows_ND[at : at + _ROWS] @ query_D
    return scores_N


def _graph(index: Index, vectors: GrowingArray) -> usearch.index.Index:
    """The graph over all vectors, kept beside them; those that it does not hold yet are added. Keys are rows."""
    try:
        from usearch.index import Index as Graph
        from usearch.index import MetricKind, ScalarKind
    except ImportError as error:
        raise MissingExtra("usearch", "search", f"searching more than {EXACT_UP_TO:,} pictures") from error
    file = index.graph_file(vectors)
    graph: Any = Graph(ndim=index.width, metric=MetricKind.Cos, dtype=ScalarKind.F16)
    if file.exists():
        graph.load(str(file))
    if len(graph) > vectors.count:  # a kill took back vectors that were in it
        graph.clear()
    held, rows = len(graph), vectors.rows()
    for at in range(held, vectors.count, _ROWS):
        keys = np.arange(at, min(at + _ROWS, vectors.count))
        graph.add(keys, rows[at : at + _ROWS])
    if len(graph) > held:
        aside = file.with_name(file.name + ".new")
        graph.save(str(aside))
        aside.replace(file)
    return graph


def read_names(given: str) -> list[str]:
    """Names between commas, or from a file with one a line. Raises DataError for a file that cannot be read."""
    try:
        is_file = "," not in given and Path(given).is_file()
        parts = Path(given).read_text(encoding="utf-8").splitlines() if is_file else given.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the file of names {given} cannot be read: {error}") from error
    return list(dict.fromkeys(name.strip() for name in parts if name.strip()))
