"""The tokens that published caption scores are counted on: those of pycocoevalcap's PTBTokenizer, without Java.

pycocoevalcap asks the Stanford tokenizer (CoreNLP 3.4.1, Penn Treebank conventions, lower case) and drops punctuation.
The rules here were found by asking that program; all captions of COCO's val2017 get the same tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Brackets are renamed before pycocoevalcap looks for them, and so are never dropped; nor are "!!" and "?!".
_DROPPED = frozenset(["'", '"', "`", ".", "?", "!", ",", ":", "-", "--", "---", "----", "...", ";"])
_RENAMED = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "¢": "cents"}
_SAME = str.maketrans(
    {
        **dict.fromkeys("\N{RIGHT SINGLE QUOTATION MARK}\x92", "'"),
        **dict.fromkeys("\N{LEFT SINGLE QUOTATION MARK}\x91", "`"),
        **dict.fromkeys(
            "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\xab\xbb\u2039\u203a\x93\x94", '"'
        ),
        **dict.fromkeys("\N{EN DASH}\N{EM DASH}\N{HORIZONTAL BAR}\x96\x97", "--"),
        **dict.fromkeys("\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{FIGURE DASH}\N{ZERO WIDTH SPACE}", " "),
        "\N{SOFT HYPHEN}": "",
        "…": " ... ",
        "½": " 1/2 ",
        "¼": " 1/4 ",
        "¾": " 3/4 ",
        "€": "$",
        "£": "#",
    }
)
_ENTITY = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "nbsp": " "}
_ENTITIES = re.compile(f"&({'|'.join(_ENTITY)});")

# A dot belongs to these; to those of the second list only where they begin with a capital.
_ABBREVIATIONS = """
al cf co ct dr ft ga jr ky lt md mo mr ms mt ph rd rt sq sr st va vs vt wm adj adm adv ala apr aug ave bhd cie col cos
cpl dak dec det drs ens esq est etc ext feb fla fri gen gov hon inc ind jan jos jul jun kan ltd maj mar mfg mme mon mrs
mtg neb nev nov oct pfc plc pte pty pvt rep rev sen sep seq sfc sgt spc ste sys tel thu tue wed wis wyo ariz assn atty
attys bldg blvd brig bros calif capt cmdr colo conn corp dept insp intl invt kans lieut messrs mich minn mlle mont natl
okla penn pres prof sept supt tenn thurs tues univ wisc
"""
_CAPITALISED = "Az La Pa Ark Del Ill Ore Tex Mass Miss Wash"
_IN_TWO = "cannot gimme gonna gotta lemme wanna"
# Where one of these comes after an initial ("S."), the dot ends a sentence; so it does at the end of the text.
_OPENERS = """
a about according additionally after an as at but earlier he her here however if in it last many more now once one other
our she since so some such that the their then there these they this we what when while yet you
"""


def _any(words: str) -> str:
    """A pattern of any of the words."""
    return "|".join(words.split())


# What depends on the next word is settled before words are taken apart from each other; a line is a text.
_LAST_DOT = re.compile(
    rf"\.(?<=[^\w.'&/@-][A-Za-z]\.)(?=[ '\"]*\n| +(?=[A-Z])(?i:{_any(_OPENERS)})[ \n])",
)
_FRACTION = re.compile(r"(?:(?<=^)|(?<= ))(\d+) (?=\d+/\d+(?![\d/]))")  # "22 3/4" is one token, that space within
_NUMBERED = re.compile(  # "No. 5", but "Oh no."; patterns that begin with a mark are found fast
    r"\.(?= \d)(?:(?<=[ \n](?i:no|pp|ca)\.)|(?<=[ \n](?i:nos|fig|art)\.)|(?<=[ \n](?i:figs)\.))"
)
_ODD = re.compile(r"[^\S \xa0]|[\x00-\x1f\x7f\ufffd\U00010000-\U0010ffff]")
_TAG = re.compile(r"<[/!?]?[A-Za-z][^<>\n]*>")

_CAPITALS = f"(?-i:{_any(_CAPITALISED)}|{_any(_CAPITALISED.upper())})"
_LETTER, _END = r"[^\W\d_]", r"(?![^\W_])"
_WORD = r"[^\W_]+(?:_[^\W_]+)*"  # "3d", "b_c"
_TOKEN = re.compile(
    "|".join(
        (
            r"<[/!?]?[a-z][^<>]*>",
            r"https?://[^\s\"<>()]*[^\s\"<>().,!?;:]",
            rf"[\w.]+@[a-z\d-]+(?:\.[a-z\d-]+)*{_END}|[@#][a-z_]+|&\#\d+;|(?-i:(?:US|HK|A|C)\$)|c(?:\+\+|\#)",
            # In two: cannot, gonna and their like, 'tis; a word before n't, and n't; 's and its like.
            r"(?:can(?=not)|go[nt](?=[nt]a)|gim(?=me)|lem(?=me)|wan(?=na))(?=(?:not|na|ta|me)(?![\w'-]))|'t(?=is|was)",
            rf"(?:{_WORD}[-/])*[^\W_]*?{_LETTER}(?=n't{_END})|n't{_END}|'(?:[smd]|re|ve|ll){_END}",
            # An apostrophe within a word, or before one.
            rf"(?:[dlno]'[a-z]{{2,}}|[a-z]+[aeiou]'[aeiou][a-z]*|qu'[aeiou]\w*|e'er|ev'ry|nor'easter|c'mon){_END}",
            rf"[djly]'(?=[a-z])|'(?:(?:em|til|cause){_END}|n{_END}'?|(?<!\w')\d\ds?(?![\w'-]))",
            # A dot within a token: "u.s.-based", "t.v.", "street.a"; at its end after abbreviations and initials.
            rf"(?:[a-z]\.)+(?:[a-z]\.?)?-{_WORD}|[a-z](?:\.[a-z])+\.?{_END}|ph\.d\.?{_END}",
            rf"(?:{_any(_ABBREVIATIONS)}|{_CAPITALS})\.(?!{_LETTER})(?:-{_WORD})?",
            rf"{_LETTER}+(?:[.!?]{_LETTER}+)+{_END}|[a-z]\.|(?:nos?|figs?|pp|art|ca)\.(?=\.$|\d)",
            # Numbers with marks in them; letters and digits, joined by hyphens and slashes; other marks.
            r"\d+\N{NO-BREAK SPACE}\d+/\d+|[-+]?\d+(?:[.,:]\d+)+|[.:]\d+(?:[.,:]\d+)*|[-+]\d+(?:[-/]\d+)*",
            rf"(?-i:[A-Z]+(?:&[A-Z]+)+)|{_WORD}(?:[-/]{_WORD})*",
            r"\.\.\.+|-+|[!?]+|\*+|_+|\S",
        )
    ),
    re.IGNORECASE,
)


def tokenize(text: str) -> list[str]:
    """The tokens of a text. "22 3/4" is one token, with a no-break space in it."""
    return [token for word in prepared([text])[1:-1].split(" ") for token in taken_apart(word)]


def prepared(texts: Sequence[str]) -> str:
    """The texts as lines after an empty one, so written that each word, between spaces, can be looked at by itself."""
    lines = "\n".join(["", *(text if _is_plain(text) else _cleaned(text) for text in texts), ""])
    return _NUMBERED.sub("..", _LAST_DOT.sub("", lines))


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and "/" not in text and "&" not in text and "<" not in text


def _cleaned(text: str) -> str:
    text = _FRACTION.sub("\\1\N{NO-BREAK SPACE}", text)
    text = _ODD.sub(" ", text.translate(_SAME))
    text = _ENTITIES.sub(lambda found: _ENTITY[found[1]], text)
    return _TAG.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


_SPECIAL = frozenset([*_ABBREVIATIONS.split(), *_CAPITALISED.lower().split(), *_IN_TWO.split()])


def taken_apart(word: str) -> tuple[str, ...]:
    """The tokens of a word that stands between spaces in what is `prepared`."""
    stem = word[:-1] if word.endswith((".", ",")) else word
    plain = stem.lower()
    if plain.isalpha() and plain.isascii() and len(plain) > 1 and plain not in _SPECIAL:
        return (plain,)
    tokens = (token.lower() for token in _TOKEN.findall(word))
    return tuple(_RENAMED.get(token, token) for token in tokens if token not in _DROPPED)
