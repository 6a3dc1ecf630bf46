"""METEOR 1.5 (Denkowski & Lavie 2014), English, by the program that published numbers come from.

The Java program in the package pycocoevalcap aligns each candidate with its references (exact words, stems, synonyms,
paraphrases) and prints what it counted; the score of these counts is computed here, as the program does. So the
corpus's METEOR, which is that of the counts of all items together, gets an interval like any other corpus figure."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chiasm.errors import ChiasmError, MissingExtra
from chiasm.evaluation.metrics.captions import TokenizedCaptions

# Its parameters for English, tuned to rank as people do.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
COUNTS = 23
_COMMAND = ("-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm")


class MeteorFailed(ChiasmError):
    """Java or the METEOR program cannot be run."""


def expect_meteor() -> Path:
    """The folder of the program. Raises MissingExtra or MeteorFailed where it or Java is absent."""
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra("pycocoevalcap", "meteor", "METEOR")
    folder = Path(next(iter(found.submodule_search_locations))) / "meteor"
    if not (folder / "meteor-1.5.jar").is_file():
        raise MeteorFailed(f"there is no meteor-1.5.jar in {folder}; install pycocoevalcap anew")
    if shutil.which("java") is None:
        raise MeteorFailed("METEOR is a Java program, but there is no 'java'; install a Java runtime or leave it out")
    return folder


def counts(captions: TokenizedCaptions) -> NDArray[np.float64]:
    """(I, 23) what the program counted of each candidate and its best reference. Starting it takes some seconds.

    In order: words of candidate and reference, their function words; for each of the four kinds of match the matched
    content words of candidate and reference and the matched function words of both; the pieces in which the matches
    lie; all matched words of both.
    """
    folder = expect_meteor()
    texts = [text.replace("|||", "").replace("  ", " ") for text in captions.texts.joined()]
    references = iter(texts[len(captions) :])
    lines = []
    for candidate, count in zip(texts, captions.counts_I.tolist(), strict=False):
        lines.append(" ||| ".join(["SCORE", *(next(references) for _ in range(count)), candidate]))
    java = str(shutil.which("java"))
    # The command is fixed; texts go in by standard input alone.
    ran = subprocess.run(  # noqa: S603 (no shell, no argument of a user's)
        [java, *_COMMAND], cwd=folder, input="\n".join([*lines, ""]), capture_output=True, encoding="utf-8", check=False
    )
    rows = [line.split() for line in ran.stdout.splitlines()]
    if ran.returncode or len(rows) != len(lines) or any(len(row) != COUNTS for row in rows):
        last = (ran.stderr.strip().splitlines() or ["it answered something else than counts"])[-1]
        raise MeteorFailed(f"the METEOR program failed: {last}; try `java -jar {folder / 'meteor-1.5.jar'}`")
    counts_IX = np.array(rows, np.float64).reshape(len(captions), COUNTS)
    # A candidate that is its reference word for word is in no pieces; the program says one, and knows better.
    whole_I = (counts_IX[:, 20] == 1) & (counts_IX[:, [0, 1]] == counts_IX[:, [21, 22]]).all(axis=1)
    counts_IX[whole_I, 20] = 0
    return counts_IX


def meteor(counts_X23: NDArray[np.float64]) -> NDArray[np.float64]:
    """(...,) METEOR, 0 to 1, of the counts of an item, or of those of several items summed."""
    lengths, functions = counts_X23[..., :2], counts_X23[..., 2:4]  # candidate, reference
    # Kind of match; content or function words; candidate or reference.
    matches = counts_X23[..., 4:20].reshape(*counts_X23.shape[:-1], len(_WEIGHTS), 2, 2)
    chunks, words = counts_X23[..., 20], counts_X23[..., 21:23].mean(axis=-1)
    right = np.einsum("...kwt,k,w->...t", matches, _WEIGHTS, np.array([DELTA, 1 - DELTA]))
    given = DELTA * (lengths - functions) + (1 - DELTA) * functions
    precision, recall = np.moveaxis(_quotient(right, given), -1, 0)
    mean = _quotient(precision * recall, ALPHA * precision + (1 - ALPHA) * recall)
    return mean * (1 - GAMMA * _quotient(chunks, words) ** BETA)


def _quotient(over: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 where there is nothing to divide by."""
    return np.divide(over, under, np.zeros_like(over), where=under > 0)
