"""The questions of another source with their answers as chats, and its captions: what a generative model learns from.

Tasks ask one question a picture, so by default a sample is one question too: of several in one chat, the later ones can
often be answered from the turns before, without the picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from chiasm.data.order import Blocks
from chiasm.data.sample import Part, Sample, Text
from chiasm.data.source import Derived, Source
from chiasm.errors import DataError, RecipeError

_QUESTION, _ANSWER = "{question}", "{answer}"


@dataclass(frozen=True)
class Answered(Derived):
    """The pictures of each sample, then some of its questions by the user, each with its answer to be learned.

    of: the source; its annotations stay with the samples. prompt: with {question} in its place, as in tasks.
    reply: with {answer} in its place; of several answers it is the one that stands as `Question.answer`.
    leave_out: kinds of questions that are not asked, and that the samples then lack, such as those that cannot be
        answered without the choices, which are not shown.
    turns: the most questions of a sample; None for all.
    rounds: how often each sample of the source comes in an epoch, each time with other questions, while it has some.
        Several are shuffled into an order of their own: put a mixture around them, or its shares are lost.
    captions: the share of samples that have no chat but one of the captions to learn, so that the likelihood of a
        caption says whether it fits. It needs a source with captions.
    seed: of what is drawn. Which questions a sample has follows from the seed and its index alone.

    To be read with `data.captions: keep`.
    """

    prompt: str = "{question}\nAnswer the question using a single word or phrase."
    reply: str = "{answer}"
    leave_out: tuple[str, ...] = ()
    turns: int | None = 1
    rounds: int = 1
    captions: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, text, placeholder in (("prompt", self.prompt, _QUESTION), ("reply", self.reply, _ANSWER)):
            if placeholder not in text:
                raise RecipeError(f"answered.{name} needs {placeholder} in its place; it is '{text}'")
        for name, count in (("turns", self.turns), ("rounds", self.rounds)):
            if count is not None and count < 1:
                raise RecipeError(f"answered.{name} must be at least 1, not {count}")
        if not 0 <= self.captions <= 1:
            raise RecipeError(f"answered.captions is a share, from 0 to 1, not {self.captions:g}")

    def __len__(self) -> int:
        return self.rounds * len(self.of)

    def blocks(self) -> Blocks | None:
        return super().blocks() if self.rounds == 1 else None

    def at(self, position: int, seed: int) -> int:
        return super().at(position, seed) if self.rounds == 1 else Source.at(self, position, seed)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} samples; there is no number {index}")
        turn, number = divmod(index, len(self.of))
        sample = self.of[number]
        asked = tuple(question for question in sample.questions if question.kind not in self.leave_out)
        sample = replace(sample, questions=asked)
        key = f"{sample.key}/{turn}" if self.rounds > 1 else sample.key
        rng = np.random.default_rng((self.seed, index))
        captioned = rng.random() < self.captions
        if captioned or not sample.questions:
            if not captioned or not sample.captions:
                raise DataError(
                    f"sample '{sample.key}' has no {'captions' if captioned else 'questions'} to learn from"
                )
            return replace(sample.with_caption(sample.captions[rng.integers(len(sample.captions))]), key=key)
        count = len(sample.questions) if self.turns is None else self.turns
        # One order a sample, the same in all rounds, that is gone on with from round to round.
        order = np.random.default_rng((self.seed, number, 1)).permutation(len(sample.questions)).tolist()
        first = turn * count % len(order)
        chosen = [*order[first:], *order[:first]][:count]
        turns = [part for at in chosen for part in self._turn(sample, at)]
        return replace(sample, key=key, parts=(*sample.images, *turns))

    def called(self, index: int) -> str:
        return self.of.called(index % len(self.of))

    def _turn(self, sample: Sample, at: int) -> tuple[Part, Part]:
        question = sample.questions[at]
        asked = self.prompt.replace(_QUESTION, question.text)
        return Text(asked, "user"), Text(self.reply.replace(_ANSWER, question.answer), "assistant", target=True)
