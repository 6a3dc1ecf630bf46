"""BLEU, ROUGE-L and CIDEr beside pycocoevalcap's: the same figures, and how many times as fast.

    python -m benchmarks.caption_metrics CAPTIONS.json [--meteor]

CAPTIONS.json is one of COCO's, such as captions_val2017.json. Of each photo the first caption is the candidate and
the others are its references. Both sides begin with the captions as written and take turns; a metric alone is timed
with the tokenization that it needs. Prints the largest differences of any item and of the corpus; with --meteor also
METEOR's, whose program both sides run. Needs pycocoevalcap and Java: pip install 'chiasm[meteor]'."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chiasm.evaluation.metrics import bleu, meteor
from chiasm.evaluation.metrics.captions import TokenizedCaptions
from chiasm.evaluation.metrics.cider import cider
from chiasm.evaluation.metrics.rouge_l import rouge_l

TURNS, GOAL, LARGEST = 5, 10.0, 1e-6
Found = tuple[NDArray[np.float64], NDArray[np.float64]]  # of each item, of the corpus
Metric = Callable[[Any, Any], Found]


def main(arguments: list[str]) -> None:
    """Prints differences, then one line a figure."""
    files = [one for one in arguments if not one.startswith("--")]
    if len(files) != 1 or set(arguments) - {*files, "--meteor"}:
        raise SystemExit(__doc__)
    if importlib.util.find_spec("pycocoevalcap") is None or shutil.which("java") is None:
        raise SystemExit("this needs the peer: pip install 'chiasm[meteor]', and a Java runtime")
    candidates, references = _captions(Path(files[0]))
    print(f"{len(candidates):,} photos, {sum(map(len, references)):,} references, {os.cpu_count()} cores")
    ours, theirs = _our_metrics(), _their_metrics()
    sides = {"tokens": ((), ()), **{name: ((ours[name],), (theirs[name],)) for name in ours}}
    sides["all of them"] = (tuple(ours.values()), tuple(theirs.values()))
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in sides}
    with _quiet():
        for turn in range(TURNS + 1):
            for name, (mine, others) in sides.items():
                seconds = _time_ours(candidates, references, mine), _time_theirs(candidates, references, others)
                if turn:  # the first warms up
                    for kept, one in zip(times[name], seconds, strict=True):
                        kept.append(one)
    with _quiet():
        differences = _differences(candidates, references, ours, theirs, with_meteor="--meteor" in arguments)
    for name, (of_items, of_corpus) in differences.items():
        print(f"largest difference, {name}: {of_items:.1e} of an item, {of_corpus:.1e} of the corpus")
    largest = max(max(pair) for pair in differences.values())
    print(f"figure: caption metrics, largest difference = {largest:.1e} (goal <= {LARGEST:.0e})")
    for name, seconds_by_side in times.items():
        own, other = (statistics.median(seconds) for seconds in seconds_by_side)
        print(f"{name}: {1000 * own:.0f} ms, pycocoevalcap {1000 * other:.0f} ms")
        # The tokenizer alone is a program in Java that reads all captions at once; it has no goal of its own.
        goal = f" (goal >= {GOAL:g})" if name != "tokens" else ""
        print(f"{'figure: caption metrics, ' if goal else ''}{name} = {other / own:.1f}{goal}")


def _captions(file: Path) -> tuple[list[str], list[list[str]]]:
    by_photo: dict[int, list[str]] = {}
    for row in json.loads(file.read_text(encoding="utf-8"))["annotations"]:
        by_photo.setdefault(row["image_id"], []).append(row["caption"])
    several = [captions for captions in by_photo.values() if len(captions) > 1]
    return [captions[0] for captions in several], [captions[1:] for captions in several]


def _our_metrics() -> dict[str, Metric]:
    def of_bleu(captions: TokenizedCaptions, _: object) -> Found:
        counts = bleu.counts(captions)
        return bleu.bleu(counts), bleu.bleu(counts.sum(axis=0))

    def mean(metric: Callable[[TokenizedCaptions], NDArray[np.float64]]) -> Metric:
        def found(captions: TokenizedCaptions, _: object) -> Found:
            single = metric(captions)
            return single, single.mean(keepdims=True)

        return found

    return {"BLEU": of_bleu, "ROUGE-L": mean(rouge_l), "CIDEr": mean(cider)}


def _their_metrics() -> dict[str, Metric]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    def of_bleu(references: Any, candidates: Any) -> Found:
        whole, single = Bleu(4).compute_score(references, candidates, verbose=0)
        return np.array(single).T, np.array(whole)

    def mean(kind: Any) -> Metric:
        def found(references: Any, candidates: Any) -> Found:
            whole, single = kind().compute_score(references, candidates)
            return single, np.array([whole])

        return found

    return {"BLEU": of_bleu, "ROUGE-L": mean(Rouge), "CIDEr": mean(Cider)}


def _time_ours(candidates: list[str], references: list[list[str]], metrics: tuple[Metric, ...]) -> float:
    start = time.perf_counter()
    captions = TokenizedCaptions(candidates, references)
    _ = captions.texts.tokens
    for metric in metrics:
        metric(captions, None)
    return time.perf_counter() - start


def _time_theirs(candidates: list[str], references: list[list[str]], metrics: tuple[Metric, ...]) -> float:
    start = time.perf_counter()
    tokens = _their_tokens(candidates, references)
    for metric in metrics:
        metric(*tokens)
    return time.perf_counter() - start


def _their_tokens(candidates: list[str], references: list[list[str]]) -> tuple[Any, Any]:
    """References and candidates, as pycocoevalcap's own eval.py makes them."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    told = {at: [{"caption": one} for one in several] for at, several in enumerate(references)}
    return tokenizer.tokenize(told), tokenizer.tokenize({at: [{"caption": one}] for at, one in enumerate(candidates)})


def _differences(
    candidates: list[str],
    references: list[list[str]],
    ours: dict[str, Metric],
    theirs: dict[str, Metric],
    with_meteor: bool,
) -> dict[str, tuple[float, float]]:
    captions, tokens = TokenizedCaptions(candidates, references), _their_tokens(candidates, references)
    pairs = {name: (ours[name](captions, None), theirs[name](*tokens)) for name in ours}
    if with_meteor:
        from pycocoevalcap.meteor.meteor import Meteor

        counts = meteor.counts(captions)
        whole, single = Meteor().compute_score(*tokens)
        mine = meteor.meteor(counts), meteor.meteor(counts.sum(axis=0, keepdims=True))
        pairs["METEOR"] = mine, (np.array(single), np.array([whole]))
    return {
        name: (float(np.abs(mine[0] - other[0]).max()), float(np.abs(mine[1] - other[1]).max()))
        for name, (mine, other) in pairs.items()
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tokenizer's reports: its program writes to the stream itself."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(io.StringIO()):
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


if __name__ == "__main__":
    main(sys.argv[1:])
