"""Rules that find answers: what each finds, and that none ever guesses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.evaluation.answers import LETTER, LETTERS, NUMBER, PHRASE, TEXT, YES_NO, letter, number, short, text, yes_no

CHOICES = ("a red cube", "a blue cube", "a cube", "two spheres")
WORDS = st.sampled_from(["yes", "no", "maybe", "Yes,", "No.", "not", "nobody", "yesterday", "a", "dog", "!"])


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ("Yes", "yes", "yes"),
        (" no.\n", "no", "no"),
        ("NO!", "no", "no"),
        ("Yes, there is a dog.", None, "yes"),
        ("There is no dog", None, "no"),
        ("Yes and no", None, None),
        ("yes or no? no", None, None),
        ("There is a dog.", None, None),  # the official POPE script reads it as yes
        ("not at all", None, None),  # and this as no
        ("nothing, yesterday", None, None),
        ("", None, None),
    ],
)
def test_yes_and_no(reply: str, strict: str | None, lenient: str | None) -> None:
    assert yes_no(reply) == strict
    assert yes_no(reply, lenient=True) == lenient


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ("B", 1, 1),
        ("(B)", 1, 1),
        ("B.", 1, 1),
        ("[B]\n", 1, 1),
        ("b", None, None),
        ("The answer is B", None, 1),
        ("Answer: (B)", None, 1),
        ("**B**", None, 1),
        ("B: a blue cube", None, 1),
        ("B. a red cube", None, None),  # letter and text disagree
        ("A red cube.", None, 0),  # the text, not the letter A
        ("A blue cube, I think", None, 1),
        ("It is a cube", None, 2),
        ("a red cube and a blue cube", None, None),
        ("A or B", None, None),
        ("not B", None, None),
        ("It isn\u2019t B", None, None),
        ("E", None, None),  # there is no fifth option
        ("A dog", None, None),
        ("I see nothing", None, None),
        ("The answer is A because it is red", None, 0),
        ("Option C", None, 2),
        ("", None, None),
        ("two  spheres", None, 3),
    ],
)
def test_letters(reply: str, strict: int | None, lenient: int | None) -> None:
    assert letter(reply, CHOICES) == LETTER.strict(reply, CHOICES) == strict
    assert letter(reply, CHOICES, lenient=True) == LETTER.lenient(reply, CHOICES) == lenient


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ("left", 0, 0),
        ("'Left of'.", 1, 1),
        ("It is left of it", None, 1),  # the longer choice, not the one within it
        ("left, or right", None, None),
        ("not right", None, None),
        ("rightly", None, None),
        ("same", None, None),  # two choices of one text cannot be told apart
    ],
)
def test_texts(reply: str, strict: int | None, lenient: int | None) -> None:
    choices = ("left", "left of", "right", "same", "same")
    assert TEXT.strict(reply, choices) == text(reply, choices) == strict
    assert TEXT.lenient(reply, choices) == lenient


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ("12", 12, 12),
        ("1,024.", 1024, 1024),
        ("\u22123.5", -3.5, -3.5),
        ("Three", 3, 3),
        ("There are three dogs; three!", None, 3),
        ("3 of 4", None, None),
        ("12,34", None, None),
        ("none", None, None),
        ("v2", None, None),
        ("\u017fix", None, None),  # a long s is no s
    ],
)
def test_numbers(reply: str, strict: float | None, lenient: float | None) -> None:
    assert number(reply) == strict
    assert number(reply, lenient=True) == lenient


def test_short_answers_are_compared_without_case_marks_and_articles() -> None:
    assert short(" The  Red-Cube! ") == short("red cube") == "red cube"
    assert short("another") == "another"


@pytest.mark.parametrize("reply", ["I cannot tell", "unclear", "Hmm.", "dog cat", "1", "none of these", "?"])
def test_what_lmms_eval_draws_by_lot_is_left_unparsed(reply: str) -> None:
    """Its MMMU parser takes random.choice of the letters where a short reply holds no letter and no option."""
    assert not any(one in reply for one in "ABCD")
    assert letter(reply, ("w", "x", "y", "z"), lenient=True) is None


@pytest.mark.slow
@given(st.text())
def test_any_text_is_read_without_fail_and_alike_again(reply: str) -> None:
    for rule, choices in ((YES_NO, ("yes", "no")), (LETTER, CHOICES), (TEXT, CHOICES)):
        strict, lenient = rule.strict(reply, choices), rule.lenient(reply, choices)
        assert strict is None or 0 <= strict < len(choices)
        assert strict is None or lenient == strict  # what is plain to the strict reading is so to the lenient one
        assert lenient == rule.lenient(reply, choices)
    assert number(reply) is None or number(reply, lenient=True) == number(reply)
    assert short(short(reply)) == short(reply)


@given(st.lists(WORDS, max_size=6))
def test_yes_and_no_need_exactly_one_of_the_words(words: list[str]) -> None:
    said = {one.strip(",.!").lower() for one in words} & {"yes", "no"}
    assert yes_no(" ".join(words), lenient=True) == (next(iter(said)) if len(said) == 1 else None)


@given(st.integers(1, 26), st.data())
def test_every_option_is_found_by_its_letter_and_its_text(count: int, data: st.DataObject) -> None:
    choices = [f"thing number {at:02}" for at in range(count)]
    place = data.draw(st.integers(0, count - 1))
    one = LETTERS[place]
    for reply in (one, f"({one})", f"{one}.", f"{one})"):
        assert letter(reply, choices) == place
    for reply in (f"The answer is {one}.", f"{one}. {choices[place]}", f"I choose ({one})", choices[place].upper()):
        assert letter(reply, choices, lenient=True) == place
    other = data.draw(st.integers(0, count - 1))
    if other != place:
        both = f"({one}) or ({LETTERS[other]})"
        assert letter(both, choices, lenient=True) is None
        assert letter(f"{choices[place]} or {choices[other]}", choices, lenient=True) is None


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        (" two dogs\n", "two dogs", "two dogs"),
        ("The answer is two dogs.", "The answer is two dogs.", "two dogs"),
        ("the final answer is: 'Two dogs'.", "the final answer is: 'Two dogs'.", "Two dogs"),
        ('Answer: "red."', 'Answer: "red."', "red"),
        ("\u201cred\u201d\nIt looks red to me.", "\u201cred\u201d\nIt looks red to me.", "red"),
        ('"red" or "blue"', '"red" or "blue"', '"red" or "blue"'),  # two pairs, not one
        ("a 5' pole", "a 5' pole", "a 5' pole"),
        ("U.S.A.", "U.S.A.", "U.S.A."),
        ("at 5 p.m.", "at 5 p.m.", "at 5 p.m."),
        ("It is red.", "It is red.", "It is red"),  # no more is taken off
        ("The answer isn't red", "The answer isn't red", "The answer isn't red"),
        ("answering machine", "answering machine", "answering machine"),
        ("The answer is", "The answer is", None),
        ("Answer:\nred", "Answer:\nred", None),  # only the first line is read
        ('"."', '"."', None),
        ("", None, None),
        (" \n ", None, None),
    ],
)
def test_phrases(reply: str, strict: str | None, lenient: str | None) -> None:
    assert PHRASE.strict(reply) == NUMBER.strict(reply) == strict
    assert PHRASE.lenient(reply) == lenient


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("12", "12"),
        ("The value is 1,024.", "1024"),
        ("In 2015, I think", "2015"),
        ("about 5% of them", "5%"),
        ("5 percent", "5%"),
        ("$\u22123.50", "-3.50"),
        ("Three; that is 3", "3"),
        ("zero", "0"),
        ("5e3", "5e3"),  # what is a number to Python stays one
        (".5", ".5"),
        ("5 or 5%", None),  # a number and a hundredth of it
        ("3 of 4", None),
        ("5.\nThat is 2 + 3.", None),
        ("2010-2015", None),
        ("It is not 5", None),
        ("red", None),
        ("", None),
    ],
)
def test_the_only_number_of_a_reply(reply: str, found: str | None) -> None:
    assert NUMBER.lenient(reply) == found


@given(st.text())
def test_what_is_found_in_a_reply_stands_in_it(reply: str) -> None:
    """The strict reading is the reply; the lenient one is part of its first line, and reads itself."""
    assert PHRASE.strict(reply) == NUMBER.strict(reply) == (reply.strip() or None)
    lenient = PHRASE.lenient(reply)
    assert lenient is None or (lenient in reply.strip().splitlines()[0] and PHRASE.lenient(lenient) == lenient)
    only = NUMBER.lenient(reply)
    assert only is None or number(only.rstrip("%")) is not None or only == reply.strip()


LEADS = st.sampled_from(["", "The answer is ", "the answer is: ", "Answer: ", "ANSWER:", "The final answer is "])
QUOTES = st.sampled_from(["", '""', "\u201c\u201d", "''", "``"])


@given(
    st.from_regex(r"[a-z0-9]+( [a-z0-9]+)?", fullmatch=True), LEADS, QUOTES, st.sampled_from(["", "."]), st.booleans()
)
def test_an_answer_is_found_in_its_wrapping(answer: str, lead: str, quotes: str, stop: str, inside: bool) -> None:
    first, last = quotes[:1], quotes[1:]
    end = f"{stop}{last}" if inside else f"{last}{stop}"
    assert PHRASE.lenient(f"{lead}{first}{answer}{end}\nBecause I see it.") == answer


@given(
    st.integers(-9999, 9999), st.integers(-9999, 9999), st.sampled_from(["It is {}.", "{}", "Answer: {} cars", "({})"])
)
def test_one_number_is_found_and_two_never(one: int, other: int, around: str) -> None:
    assert NUMBER.lenient(around.format(f"{one:,}")) == str(one)
    both = NUMBER.lenient(around.format(f"{one} and {other}"))
    assert both == (str(one) if one == other else None)
