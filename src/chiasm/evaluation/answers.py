"""Rules that find the answer in a reply, apart from the metrics that judge it.

Every rule reads in two ways. The strict one takes a reply that is the answer and nothing else; the lenient one takes a
reply that holds exactly one answer. Where a reply holds none, or several, or denies what it names, both give None:
nothing is guessed, and what is not found counts as wrong. All functions are pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from string import ascii_uppercase

LETTERS = ascii_uppercase
_YES_NO = ("yes", "no")
_PLAIN = str.maketrans("\u2018\u2019\u201c\u201d\u2212", "''\"\"-")  # typographic quotes and the minus sign
_END = " \t\r\n.!,;:\u3002"  # what may follow an answer
_AROUND = _END + "\"'`*"  # and around it: quotes, marks of bold type
_DENIES = re.compile(r"\b(?:not|no|never|none|neither|nor|except|cannot|\w+n't)\b", re.IGNORECASE)
_ALONE = re.compile(r"[(\[]?([A-Z])[)\]]?")
# A letter in brackets, or followed by a mark that ends it, or named as the answer, or standing alone.
_LETTER = re.compile(
    r"[(\[](?P<bracketed>[A-Z])[)\]]"
    r"|(?<![\w'-])(?P<marked>[A-Z])(?:[):](?!\w)|\.(?!\w))"
    r"|\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice|[Ll]etter)(?:\s+is|\s*:)?\s*[\"'*(\[]*(?P<named>[A-Z])(?![\w'-])"
    r"|(?<![\w'-])(?P<single>[A-Z])(?![\w'-])"
)
_WORDS_TOO = ("A", "I")  # letters that are words: alone they count only where no word follows
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_NUMBER = re.compile(
    r"(?<![\w.,])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w]|[.,]\d)|\b(?ai:" + "|".join(_NUMBERS) + r")\b",
    re.IGNORECASE,
)
_PERCENT = re.compile(r"\s*(?:%|per\s?cent\b)", re.IGNORECASE)
_PLAIN_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?\s*%?", re.IGNORECASE)
_LEAD = re.compile(r"(?:the\s+)?(?:(?:final|correct)\s+)?answer(?:\s+is\b\s*:?|\s*:)\s*", re.IGNORECASE)
_QUOTED = re.compile("\"([^\"]*)\"|'([^']*)'|`([^`]*)`|\u201c([^\u201c\u201d]*)\u201d|\u2018([^\u2018\u2019]*)\u2019")
_INITIALS = re.compile(r"(?:^|\W)(?:[^\W\d_]\.){2,}$")  # "U.S.A.", "5 p.m.": the last full stop is theirs

ChoiceReader = Callable[[str, Sequence[str]], int | None]  # (reply, choices) -> the index of the choice it names


@dataclass(frozen=True)
class ChoiceRule:
    """A rule by which replies to choices are read: the index of the chosen one, or None. name: for people."""

    name: str
    strict: ChoiceReader
    lenient: ChoiceReader


@dataclass(frozen=True)
class Extraction:
    """A rule by which replies without choices are read: the words that answer, or None. name: for people."""

    name: str
    strict: Callable[[str], str | None]
    lenient: Callable[[str], str | None]


def yes_no(reply: str, *, lenient: bool = False) -> str | None:
    """ "yes" or "no". Strict: the whole reply but for case and final marks. Lenient: the one of the two words in it."""
    if not lenient:
        word = reply.strip().rstrip(_END).lower()
        return word if word in _YES_NO else None
    found = set(re.findall(r"\b(?:yes|no)\b", reply.lower()))
    return found.pop() if len(found) == 1 else None


def letter(reply: str, choices: Sequence[str], *, lenient: bool = False) -> int | None:
    """The choice whose letter a reply gives, A being the first.

    Strict: "B", "(B)", "B)", "B.". Lenient: one letter anywhere ("The answer is B", "**B**: a dog"), or the text of one
    choice as it stands; where letter and text point to different choices, or the reply denies anything, None.
    """
    reply = reply.translate(_PLAIN)
    bare = _ALONE.fullmatch(reply.strip().rstrip(_END))
    if bare is not None or not lenient:
        return _index_of(bare.group(1), choices) if bare else None
    if (exact := text(reply, choices)) is not None:
        return exact
    named, rest = _named(reply, choices)
    if _DENIES.search(rest):
        return None
    for found in _LETTER.finditer(rest):
        named_letter = found.group(found.lastgroup or 0)
        follows = rest[found.end() :]
        if found.lastgroup == "single" and named_letter in _WORDS_TOO and re.match(r"\s+(?!(?:or|and)\b)\w", follows):
            continue  # "A dog" names no letter, unlike "A or B"
        if (index := _index_of(named_letter, choices)) is not None:
            named.add(index)
    return named.pop() if len(named) == 1 else None


def text(reply: str, choices: Sequence[str], *, lenient: bool = False) -> int | None:
    """The choice whose text a reply gives. Strict: nothing else, but for case, quotes and final marks.

    Lenient: the text of one choice, in whole words, and nothing denied. A choice within a longer one that is found
    ("cat" in "cat on a mat") does not count. Choices of equal text cannot be told apart: None.
    """
    bare = _bare(reply)
    same = [index for index, choice in enumerate(choices) if bare and _bare(choice) == bare]
    if len(same) == 1 or not lenient:
        return same[0] if len(same) == 1 else None
    named, rest = _named(reply.translate(_PLAIN), choices)
    return named.pop() if len(named) == 1 and not _DENIES.search(rest) else None


def number(reply: str, *, lenient: bool = False) -> float | None:
    """A number in digits ("1,024", "-3.5") or, up to twenty, in words.

    Strict: nothing else but final marks. Lenient: the only number in the reply, however often it occurs.
    """
    reply = reply.translate(_PLAIN)
    if not lenient:
        found = _NUMBER.fullmatch(reply.strip().rstrip(_END))
        return _value(found.group()) if found else None
    values = {_value(found) for found in _NUMBER.findall(reply)}
    return values.pop() if len(values) == 1 else None


def phrase(reply: str, *, lenient: bool = False) -> str | None:
    """An answer in words of one's own. Strict: the whole reply, but for blanks around it.

    Lenient: its first line without "The answer is" or "Answer:" before it, a pair of quotes around it and the full stop
    after it. None where nothing is left.
    """
    words = reply.strip()
    if lenient and words:
        words, before = words.splitlines()[0].strip(), ""
        while words != before:
            words, before = _undressed(words), words
    return words or None


def phrase_or_number(reply: str, *, lenient: bool = False) -> str | None:
    """The answer to a question after a number, in digits. Strict: the whole reply, as of a phrase.

    Lenient: the only number in the reply as in `number`, without commas, and with % where percent are meant; None where
    there are several or the reply denies anything.
    """
    if not lenient or _PLAIN_NUMBER.fullmatch(reply.strip()):
        return phrase(reply)
    reply = reply.translate(_PLAIN)
    if _DENIES.search(reply):
        return None
    numbers: dict[tuple[float, str], str] = {}
    for found in _NUMBER.finditer(reply):
        word = found.group().lower()
        digits = str(_NUMBERS.index(word)) if word in _NUMBERS else word.replace(",", "")
        percent = "%" if _PERCENT.match(reply, found.end()) else ""
        numbers.setdefault((float(digits), percent), digits + percent)
    return next(iter(numbers.values())) if len(numbers) == 1 else None


def short(reply: str) -> str:
    """A short answer as it is compared: lower case, no marks, no articles, single spaces (Rajpurkar et al. 2016)."""
    plain = re.sub(r"[^\w\s]", "", reply.lower().replace("-", " "))
    return " ".join(word for word in plain.split() if word not in ("a", "an", "the"))


def _yes_no_choice(reply: str, choices: Sequence[str], *, lenient: bool = False) -> int | None:
    word = yes_no(reply, lenient=lenient)
    return choices.index(word) if word is not None and word in choices else None


def _leniently(read: Callable[..., int | None]) -> ChoiceReader:
    def lenient(reply: str, choices: Sequence[str]) -> int | None:
        return read(reply, choices, lenient=True)

    return lenient


YES_NO = ChoiceRule("yes or no", _yes_no_choice, _leniently(_yes_no_choice))
LETTER = ChoiceRule("letter", letter, _leniently(letter))
TEXT = ChoiceRule("text of a choice", text, _leniently(text))
PHRASE = Extraction("word or phrase", phrase, partial(phrase, lenient=True))
NUMBER = Extraction("number", phrase_or_number, partial(phrase_or_number, lenient=True))


def _undressed(words: str) -> str:
    """The words without the quotes and punctuation around them that a lenient reading takes off."""
    if lead := _LEAD.match(words):
        return words[lead.end() :]
    if quoted := _QUOTED.fullmatch(words):
        return (quoted.group(quoted.lastindex or 0)).strip()
    return words if _INITIALS.search(words) else words.removesuffix(".").rstrip()


def _index_of(letter: str, choices: Sequence[str]) -> int | None:
    index = LETTERS.index(letter)
    return index if index < len(choices) else None


def _bare(words: str) -> str:
    return " ".join(words.translate(_PLAIN).lower().split()).strip(_AROUND)


def _named(reply: str, choices: Sequence[str]) -> tuple[set[int], str]:
    """The choices whose texts stand in a reply in whole words, the longest first, and the reply without them."""
    named, rest = set(), reply
    for choice in sorted({_bare(choice) for choice in choices} - {""}, key=len, reverse=True):
        words = r"\s+".join(re.escape(word) for word in choice.split())
        rest, times = re.subn(rf"(?<!\w){words}(?!\w)", " ; ", rest, flags=re.IGNORECASE)
        if times:
            named |= {index for index, text in enumerate(choices) if _bare(text) == choice}
    return named, rest


def _value(found: str) -> float:
    word = found.lower()
    return float(_NUMBERS.index(word)) if word in _NUMBERS else float(word.replace(",", ""))
