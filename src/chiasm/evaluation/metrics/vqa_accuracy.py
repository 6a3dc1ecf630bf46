"""VQA accuracy (Antol et al. 2015, arXiv:1505.00468): an answer that three of ten people gave is right.

As the official vqaEval.py of VQAv2, with its normalisation of answers, whose oddities are kept because published
numbers hold them: a comma between digits anywhere takes all marks out without a space; only words are numbers, and
only up to ten; "none" is 0; a dot goes unless a digit follows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA = re.compile(r"\d,\d")
_DOT = re.compile(r"\.(?!\d)")
_NUMBERS = "zero one two three four five six seven eight nine ten"
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split())} | {"none": "0"}
_ARTICLES = frozenset(("a", "an", "the"))
_CONTRACTIONS = """
'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _lacking_one(word: str) -> Iterator[str]:
    """The word without one of its apostrophes."""
    return (word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'")


# "dont" and "couldntve" are mended where one apostrophe is missing; "lets" and "shes" are not, as there.
_MENDED = {lacking: word for word in _CONTRACTIONS.split() for lacking in _lacking_one(word)} | {
    "somebody'd": "somebodyd"
}


def normalised(answer: str) -> str:
    """An answer as it is compared: lower case, without articles and most marks, numbers up to ten in digits."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    plain, joins = answer, _COMMA.search(answer) is not None
    for mark in _MARKS:
        plain = plain.replace(mark, "" if joins or f"{mark} " in answer or f" {mark}" in answer else " ")
    plain = _DOT.sub("", plain)
    words = (_DIGITS.get(word, word) for word in plain.lower().split())
    return " ".join(_MENDED.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(reply: str, answers: Sequence[str]) -> float:
    """0 to 1: min(1, people who said the same / 3), averaged over all but one of the people.

    answers: one a person, repetitions included; replies and answers are both normalised. A single answer is the
    answer, and is right or wrong.
    """
    given = normalised(reply)
    same, people = sum(normalised(answer) == given for answer in answers), len(answers)
    if people == 1:
        return float(same)
    return (same * min(1.0, (same - 1) / 3) + (people - same) * min(1.0, same / 3)) / people
