"""Questions to answers, by whichever of the three verbs the model has: embed before score, generate for open ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from chiasm.data.image import Image
from chiasm.data.sample import Sample, Text
from chiasm.errors import CapabilityError, DataError
from chiasm.evaluation.cache import Journal, Shelf
from chiasm.evaluation.task import Answer, Ask, Broken, Either, Failed, Match, Question, Task, Vector, picture_key
from chiasm.models.model import VERBS, Embedder, Generator, Model, Scorer

Askable = Embedder | Scorer | Generator | Model  # a model offers those of the verbs that it can; `check` tells

_PICTURES, _TEXTS, _SAMPLES = 128, 1024, 8  # handed to the model at once; between them, progress is kept


class Asker:
    """Asks one model, each picture and each text once if it embeds.

    cache: folder of the embeddings; None keeps them in memory. identity: of the model and its processor.
    A question about a picture that cannot be decoded is answered by `Failed`; so is one whose scores are not numbers.
    """

    def __init__(self, model: Askable, progress: Progress, cache: Path | None = None, identity: str = "") -> None:
        self.model, self.progress = model, progress
        self.pictures = Shelf(cache / "pictures" if cache else None, identity)
        self.texts = Shelf(cache / "texts" if cache else None, identity)
        self._unreadable: dict[str, str] = {}  # the reason, by the picture's key
        # Answers by pictures and texts: blind and shuffled runs of a task with common texts ask nothing new.
        self._scores: dict[tuple[tuple[str, ...], int], Answer] = {}

    def check(self, task: Task) -> None:
        """Raises CapabilityError if the model lacks the verb that a question of the task needs."""
        can = [verb for verb, kind in VERBS.items() if isinstance(self.model, kind)]
        for question in task.asked:
            needs = _needs(question)
            if needs and not set(needs) & set(can):
                raise CapabilityError(
                    f"task '{task.title}' needs a model that can {' or '.join(needs)}, but "
                    f"{type(self.model).__name__} can only {' and '.join(can) or 'train'}; leave the task out or "
                    "choose another model"
                )

    def prepare(self, questions: Iterable[Question]) -> None:
        """Embeds the pictures and texts of all matches that are not embedded yet; a model without embeddings waits."""
        if not isinstance(self.model, Embedder):
            return
        questions = [self._form(question) for question in questions]
        pictures: dict[str, Image] = {}
        columns: dict[int, tuple[tuple[str, ...], ...]] = {}  # questions share tuples of texts; look at each once
        for question in questions:
            if isinstance(question, Match):
                columns[id(question.texts)] = question.texts
            if isinstance(question, (Match, Vector)):
                for image in question.images:
                    pictures[picture_key(image)] = image
        texts = dict.fromkeys(text for several in columns.values() for phrasings in several for text in phrasings)
        self._embed_pictures({key: one for key, one in pictures.items() if key not in self.pictures.places})
        # Texts of like length go to the model together, so that little is padded.
        self._embed_texts(sorted((text for text in texts if text not in self.texts.places), key=len))

    def answers(self, questions: Sequence[Question], journal: Journal, run: str = "") -> list[Answer]:
        """The answers, in order. run: under which name the journal keeps them."""
        found: dict[int, Answer] = {}
        questions = [self._form(question) for question in questions]
        matches = [at for at, one in enumerate(questions) if isinstance(one, Match)]
        asks = [at for at, one in enumerate(questions) if isinstance(one, Ask)]
        matched = self._matched([one for one in questions if isinstance(one, Match)], journal, run)
        said = self._said([one for one in questions if isinstance(one, Ask)], journal, run)
        found |= dict(zip(matches, matched, strict=True)) | dict(zip(asks, said, strict=True))
        found |= {at: self._vector(one) for at, one in enumerate(questions) if isinstance(one, Vector)}
        found |= {at: Failed(one.reason) for at, one in enumerate(questions) if isinstance(one, Broken)}
        return [found[at] for at in range(len(questions))]

    def _form(self, question: Question) -> Question:
        """The form in which this model is asked: words where the question has them and the model can but generate."""
        if not isinstance(question, Either):
            return question
        in_words = question.words_only or not isinstance(self.model, (Embedder, Scorer))
        return replace(question.words, key=question.key) if in_words else question

    def _matched(self, questions: Sequence[Match], journal: Journal, run: str) -> list[Answer]:
        if isinstance(self.model, Embedder):
            # Kept by the shelves: an answer is a product of embeddings.
            alike = groupby(questions, key=lambda question: id(question.texts))
            return [answer for _, several in alike for answer in self._products(list(several))]
        return list(self._scored(questions, journal, run))

    # --- embed

    def _embed_pictures(self, pictures: dict[str, Image]) -> None:
        assert isinstance(self.model, Embedder)
        keys = list(pictures)
        bar = self.progress.add_task("pictures", total=len(keys), visible=bool(keys))
        for at in range(0, len(keys), _PICTURES):
            chunk = keys[at : at + _PICTURES]
            try:
                self.pictures.add(chunk, _rows(self.model.embed_images([pictures[key] for key in chunk])))
            except DataError:
                for key in chunk:  # one of them is broken; looking for it is worth the time only now
                    try:
                        self.pictures.add([key], _rows(self.model.embed_images([pictures[key]])))
                    except DataError as error:
                        self._unreadable[key] = str(error)
            self.progress.advance(bar, len(chunk))

    def _embed_texts(self, texts: list[str]) -> None:
        assert isinstance(self.model, Embedder)
        bar = self.progress.add_task("texts", total=len(texts), visible=bool(texts))
        for at in range(0, len(texts), _TEXTS):
            chunk = texts[at : at + _TEXTS]
            self.texts.add(chunk, _rows(self.model.embed_texts(chunk)))
            self.progress.advance(bar, len(chunk))

    def _products(self, questions: list[Match]) -> Iterator[Answer]:
        """The answers to questions that share their texts.

        Products are taken in float64 and rounded to float32: equal embeddings then tie exactly, in whatever order the
        matrix product sums.
        """
        keys = [[picture_key(image) for image in question.images] for question in questions]
        sound = [[key for key in several if key in self.pictures.places] for several in keys]
        rows = [self.pictures.places[key] for several in sound for key in several]
        columns_CD = self._columns(questions[0].texts)
        scores_NC = np.empty((len(rows), len(columns_CD)), np.float32)
        for at in range(0, len(rows), _PICTURES):
            scores_NC[at : at + _PICTURES] = self.pictures.matrix()[rows[at : at + _PICTURES]] @ columns_CD.T
        start = 0
        for all_keys, sound_keys in zip(keys, sound, strict=True):
            scores = scores_NC[start : start + len(sound_keys)]
            start += len(sound_keys)
            missing = [key for key in all_keys if key not in self.pictures.places]
            yield Failed(self._unreadable[missing[0]]) if missing else _checked(scores)

    def _vector(self, question: Vector) -> Answer:
        keys = [picture_key(image) for image in question.images]
        if missing := [key for key in keys if key not in self.pictures.places]:
            return Failed(self._unreadable[missing[0]])
        return _checked(self.pictures.matrix()[[self.pictures.places[key] for key in keys]])

    def _columns(self, texts: tuple[tuple[str, ...], ...]) -> NDArray[np.float64]:
        """(C, D), unit length: the mean embedding of each group of phrasings, scaled to length 1."""
        rows_ND = self.texts.matrix()[[self.texts.places[text] for phrasings in texts for text in phrasings]]
        if len(rows_ND) == len(texts):
            return rows_ND.astype(np.float64)
        means_CD = _group_means(rows_ND, texts)
        return means_CD / np.maximum(np.linalg.norm(means_CD, axis=1, keepdims=True), np.finfo(np.float64).tiny)

    # --- score

    def _scored(self, questions: Sequence[Match], journal: Journal, run: str) -> Iterator[Answer]:
        known = self._scores
        bar = self.progress.add_task(f"{run or 'scores'}", total=len(questions), visible=bool(questions))
        for question in questions:
            same = tuple(picture_key(image) for image in question.images), id(question.texts)
            answer = journal.get(run, question.key)
            if answer is None:
                answer = known[same] if same in known else self._score(question)
                journal.add(run, question.key, answer)
            known[same] = answer
            self.progress.advance(bar)
            yield answer

    def _score(self, question: Match) -> Answer:
        assert isinstance(self.model, Scorer)
        flat = [text for phrasings in question.texts for text in phrasings]
        try:
            scores = _rows(self.model.score(question.images, flat))
        except DataError as error:
            return Failed(str(error))
        if scores.shape != (len(question.images), len(flat)):
            raise ValueError(
                f"{type(self.model).__name__}.score gave {scores.shape} for {len(question.images)} pictures and "
                f"{len(flat)} texts"
            )
        if len(flat) != len(question.texts):
            scores = _group_means(scores.T, question.texts).T.astype(np.float32)
        return _checked(scores)

    # --- generate

    def _said(self, questions: Sequence[Ask], journal: Journal, run: str) -> list[Answer]:
        known = {at: answer for at, one in enumerate(questions) if (answer := journal.get(run, one.key)) is not None}
        left = [at for at in range(len(questions)) if at not in known]
        bar = self.progress.add_task(f"{run or 'replies'}", total=len(left), visible=bool(left))
        for _, several in groupby(left, key=lambda at: questions[at].max_tokens):
            alike = list(several)
            for start in range(0, len(alike), _SAMPLES):
                chunk = alike[start : start + _SAMPLES]
                for at, reply in zip(chunk, self._replies([questions[at] for at in chunk]), strict=True):
                    journal.add(run, questions[at].key, reply)
                    known[at] = reply
                self.progress.advance(bar, len(chunk))
        return [known[at] for at in range(len(questions))]

    def _replies(self, questions: Sequence[Ask]) -> list[Answer]:
        assert isinstance(self.model, Generator)
        try:
            samples = [question.sample for question in questions]
            return [_reply(one) for one in self.model.generate(samples, max_tokens=questions[0].max_tokens)]
        except DataError as error:
            if len(questions) == 1:
                return [Failed(str(error))]
            return [reply for question in questions for reply in self._replies([question])]


def _needs(question: Question) -> tuple[str, ...]:
    """The verbs of which a model must have one."""
    if isinstance(question, Either):
        return ("generate",) if question.words_only else ("embed", "score", "generate")
    if isinstance(question, Match):
        return "embed", "score"
    if isinstance(question, Vector):
        return ("embed",)
    return ("generate",) if isinstance(question, Ask) else ()


def _reply(sample: Sample) -> Answer:
    last = sample.parts[-1] if sample.parts else None
    return last.text if isinstance(last, Text) else Failed("the model's reply holds no text")


def _rows(tensor: object) -> NDArray[np.float32]:
    return np.asarray(tensor, dtype=np.float32)


def _checked(scores: NDArray[np.float32]) -> Answer:
    return Failed("the model's scores are not numbers (NaN)") if np.isnan(scores).any() else scores


def _group_means(rows_ND: NDArray[np.float32], groups: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """(C, D) means of consecutive rows, as many as each group has members."""
    sizes_C = np.array([len(group) for group in groups])
    starts_C = np.concatenate([[0], np.cumsum(sizes_C)[:-1]])
    return np.add.reduceat(rows_ND, starts_C, axis=0, dtype=np.float64) / sizes_C[:, None]
