"""Chats and their label masks against transformers' own rendering and its assistant masks; templates that misbehave."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from chiasm.data.chat import IMAGE, ChatTemplate
from chiasm.data.chat_processor import ChatProcessor, ChatSettings
from chiasm.data.layouts.codes import Codes
from chiasm.data.layouts.fixed import Fixed
from chiasm.data.sample import Image, Sample, Text, Video
from chiasm.data.sandbox import TooLong, bounded_environment
from chiasm.data.transforms import ImageTransform
from chiasm.errors import CheckpointError, DataError
from tests import peers  # noqa: F401  # before any class of transformers is touched
from tests.weights.generating import CHATML, vocabulary

GREY = Image(np.full((8, 8, 3), 128, np.uint8))
CHAT = Sample(
    "chat",
    (
        Text("Be short.", "system"),
        GREY,
        Text("What is it?", "user"),
        Text("A cat.", "assistant", target=True),
        Text("Sure?", "user"),
        Text("Yes.", "assistant", target=True),
    ),
)


def processor(template: str = CHATML, context: int = 200, image_tokens: int = 3) -> ChatProcessor:
    settings = ChatSettings(context, Fixed(image_tokens), "", ("<|im_end|>", "<|endoftext|>"), {})
    return ChatProcessor(Tokenizer.from_str(vocabulary()), settings, template)


def learned(sample: Sample, template: str = CHATML) -> list[str]:
    rendered = processor(template).render(sample)
    return [rendered.text[first:behind] for first, behind in rendered.spans]


def test_texts_are_those_of_transformers() -> None:
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(vocabulary()))
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be short."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
        {"role": "user", "content": [{"type": "text", "text": "Sure?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
    ]
    expected = fast.apply_chat_template(messages, chat_template=CHATML, tokenize=False)
    assert processor().render(CHAT).text == expected.replace("<image>", "<image>" * 3)
    question = Sample("q", CHAT.parts[:3])
    expected = fast.apply_chat_template(messages[:2], chat_template=CHATML, tokenize=False, add_generation_prompt=True)
    assert processor().render(question, answer=True).text == expected.replace("<image>", "<image>" * 3)


SPOKEN = {
    "a macro whose parameter has another name": (
        "{% macro say(it) %}{% for c in it %}{{ '<image>' if c.type == 'image' else c.text }}{% endfor %}{% endmacro %}"
        "{% for m in messages %}[{{ m.role }}]{{ say(m['content']) }}{% endfor %}"
    ),
    "a variable of another name": (
        "{% for m in messages %}{% set parts = m['content'] %}[{{ m.role }}]"
        "{% for c in parts %}{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}{% endfor %}"
    ),
    "either, told apart by the template": (
        "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
        "{{ m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join }}"
        "{% for c in m.content if c.type == 'image' %}<image>{% endfor %}{% endif %}{% endfor %}"
    ),
    "the day, and JSON in a form of its own": (
        "{{ strftime_now('%d %b %Y') }} {{ {'b': 'é', 'a': [1]} | tojson(separators=(',', ':'), sort_keys=true) }} "
        "{{ 'é' | tojson(ensure_ascii=true) }}"
        "{% for m in messages %}{% for c in m.content %}{{ c.text if c.text else '<image>' }}{% endfor %}{% endfor %}"
    ),
}


@pytest.mark.parametrize("template", SPOKEN.values(), ids=SPOKEN)
def test_however_a_template_reads_parts_it_says_what_it_says_in_transformers(template: str) -> None:
    chat = Sample("a", (Text("Hello there", "user"), GREY.placed("user"), Text("Yes", "assistant")))
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Hello there"}, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]},
    ]
    (expected,), _ = render_jinja_template([messages], chat_template=template)
    assert ChatTemplate(template).render(chat).text == expected.replace("<image>", IMAGE)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}",
        "{% for m in messages %}[{{ m.role }}]{{ m.content | tojson }}{% endfor %}",
        "{% for m in messages %}[{{ m.role }}]{{ m['content'].strip() }}{% endfor %}",
        "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}",
    ],
)
def test_a_template_of_plain_texts_gets_plain_texts(template: str) -> None:
    (expected,), _ = render_jinja_template([[{"role": "user", "content": "Hello"}]], chat_template=template)
    assert ChatTemplate(template).render(Sample("a", (Text("Hello", "user"),))).text == expected


def test_the_label_mask_is_that_of_transformers() -> None:
    template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}"
        "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(vocabulary()))
    sample = Sample("chat", tuple(part for part in CHAT.parts if isinstance(part, Text)))
    messages = [{"role": text.role, "content": text.text} for text in sample.texts]
    expected = fast.apply_chat_template(
        messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    batch = processor(template)([sample])
    assert batch.stream is not None
    assert batch.stream.ids_T.tolist() == expected["input_ids"]
    assert batch.stream.target_T.int().tolist() == expected["assistant_masks"]


def test_the_end_of_a_turn_is_learned_with_it() -> None:
    assert learned(CHAT) == ["A cat.<|im_end|>", "Yes.<|im_end|>"]
    bare = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + ' ' }}{% endfor %}"
    words = Sample("a", (Text("Go on", "user"), Text("I do", "assistant", target=True)))
    assert learned(words, bare) == ["I do<|im_end|>"]  # such a model would never learn to stop
    apart = "{% for message in messages %}{{ message['content'] + ' \n<|im_end|>' }}{% endfor %}"
    assert learned(words, apart) == ["I do \n<|im_end|>"]
    caption = Sample("b", (GREY, Text("a cat", target=True)))
    assert learned(caption, bare) == ["a cat<|im_end|>"]
    assert processor().render(caption).text == "<image><image><image>a cat<|im_end|>"


def test_a_prompt_is_open_at_its_end() -> None:
    """What the assistant has begun to say goes on, with a template that says nothing behind it and without any."""
    bare = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    for target in (False, True):
        begun = Sample("a", (Text("Count: ", "user"), Text("one, two", "assistant", target=target)))
        for template in (bare, ""):
            assert processor(template).render(begun, answer=True).text == "Count: one, two"
    more = Sample("b", (*begun.parts, Text(" and?", "user")))
    assert processor("").render(more, answer=True).text == "Count: one, two<|im_end|> and?"


def test_words_that_are_none_are_not_learned() -> None:
    assert learned(Sample("a", (Text("Who?", "user"), Text("", "assistant", target=True)))) == []


def test_a_long_chat_has_as_much_room_as_it_needs() -> None:
    words = Sample("a", (Text("Go on. " * 200_000, "user"), Text("I do", "assistant", target=True)))
    joined = "{% for message in messages %}{{ message['content'] | trim | replace('Go', 'go') }}{% endfor %}"
    looked = "{% for message in messages %}{% for one in message['content'].split('.') %}{% endfor %}{% endfor %}"
    rendered = ChatTemplate(joined + looked).render(words)
    assert rendered.text.count("go on.") == 200_000


def test_a_template_that_strips_keeps_its_targets() -> None:
    strips = "{% for message in messages %}[{{ message['content'] | trim }}]{% endfor %}"
    sample = Sample("a", (Text(" Who? ", "user"), Text(" Me. ", "assistant", target=True)))
    rendered = ChatTemplate(strips).render(sample)
    assert rendered.text == "[Who?][Me.]"
    assert [rendered.text[first:behind] for first, behind in rendered.spans] == ["Me."]


def test_only_targets_are_learned_and_a_sample_without_any_is_an_error() -> None:
    silent = Sample("mute", (Text("Who?", "user"), Text("Me.", "assistant")))
    with pytest.raises(DataError, match="'mute' has nothing to learn"):
        processor()([silent])
    assert processor().prompts([silent]).stream is not None


def test_a_start_stands_before_all_and_is_not_learned() -> None:
    settings = ChatSettings(200, Fixed(3), "<|endoftext|>", ("<|im_end|>",), {})
    one = ChatProcessor(Tokenizer.from_str(vocabulary()), settings, CHATML)
    (ids, targets), (plain, _) = one.tokens(CHAT), processor().tokens(CHAT)
    assert ids == [one.backend.token_to_id("<|endoftext|>"), *plain]
    said = [token for token, target in zip(ids, targets, strict=True) if target]
    assert one.backend.decode(said, skip_special_tokens=False) == "A cat.<|im_end|>Yes.<|im_end|>"
    assert one.decode(said) == "A cat.Yes."


def test_the_first_token_of_all_cannot_be_learned() -> None:
    one = ChatProcessor(Tokenizer.from_str(vocabulary()), ChatSettings(ends=()))
    word = Sample("a", (Text("!", target=True),))
    assert one.tokens(word, answer=True)[1] == [True]
    with pytest.raises(DataError, match="'a' has nothing to learn"):
        one.tokens(word)


def test_slots_stand_where_the_pictures_stand() -> None:
    sample = Sample(
        "two", (Text("One", "user"), GREY, Text("and", "user"), GREY, Text("two", "assistant", target=True))
    )
    batch = processor()([sample, CHAT])
    assert batch.stream is not None
    assert batch.images is not None
    assert batch.stream.image_mask_T.sum() == 9
    assert batch.images.row_N.tolist() == [0, 0, 1]
    text = processor().render(sample).text
    image_tokens = "<image>" * 3
    expected = f"<|im_start|>user\nOne{image_tokens}and<|im_end|>\n<|im_start|>assistant\n{image_tokens}two<|im_end|>\n"
    assert text == expected  # a picture belongs to the turn of the text behind it
    parts = batch.split(2)
    assert parts[1].stream is not None
    assert parts[1].stream.ids_T.tolist() == batch.stream.ids_T[int(batch.stream.lengths_B[0]) :].tolist()


def test_what_is_too_long_is_never_cut() -> None:
    with pytest.raises(DataError, match=r"'chat' has .* tokens, 90 of them for its pictures, but the context is 100"):
        processor(context=100, image_tokens=90)([CHAT])
    count = len(processor().tokens(CHAT)[0])
    assert len(processor(context=count).tokens(CHAT)[0]) == count
    with pytest.raises(DataError, match=f"but the context is {count - 1}"):
        processor(context=count - 1).tokens(CHAT)


GROWS = "{% set room = namespace(text='abcdefgh') %}{% for i in range(60) %}{% set room.text = TEXT %}{% endfor %}"
AGAIN = "{% set s = 'a' * 90000 %}{% for a in range(9999) %}{% set b = TEXT %}{% endfor %}"
# Each would take minutes, or more memory than there is, in a sandbox that is not bounded.
ENDLESS = (
    "{% set s = 'a' * 900 %}{% for a in s %}{% for b in s %}{% for c in s %}x{% endfor %}{% endfor %}{% endfor %}",
    *(GROWS.replace("TEXT", text) for text in (
        "room.text ~ room.text",
        "room.text + room.text",
        "room.text.replace('a', 'a' * 90)",
        "room.text | replace('a', 'a' * 90)",
        "room.text.join(room.text)",
        "room.text | list | join(room.text)",
        "'%s%s' % (room.text, room.text)",
        "'{0}{0}'.format(room.text)",
        "([room.text] * 999) | join",
        "room.text | list | tojson(9999)",
    )),
    *("{{ " + text + " }}" for text in (
        "'a'.ljust(3000000000000000)",
        "'a' | center(3000000000000000)",
        "'a\\nb' | indent(3000000000000000)",
        "'%3000000000000000d' | format(1)",
        "'%*d' % (3000000000000000, 1)",
        "'{:>3000000000000000}'.format(1)",
        "'{:>{w}}'.format(1, w=3000000000000000)",
        "'a' | batch(3000000000000000, 'x') | list",
        "'a' | slice(3000000000000000, 'x') | list",
        "(1).to_bytes(3000000000000000, 'big')",
        "9 ** 9 ** 9",
        "[[['a' * 999] * 999] * 999] * 999",
    )),
    "{% set s = 'a' * 90000 %}{% for a in s %}{% if s == s ~ 'b' %}{% endif %}{% endfor %}",
    "{% set s = 'a' * 90000 %}{% for a in range(9999) %}{{ s }}{% endfor %}",
    *(AGAIN.replace("TEXT", text) for text in (
        "s[1:]",
        "s.upper()",
        "[1].count(s)",
        "s | upper",
        "s ~ 'b'",
    )),
    "{% set s = 'a' * 9000 %}{% for a in s | map('upper') | map('lower') %}{% for b in s %}{% endfor %}{% endfor %}",
    "{% for a in 'a' * 900 recursive %}{% if loop.depth < 5 %}{{ loop('a' * 900) }}{% endif %}{% endfor %}",
)  # fmt: skip


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for i in range(99999999) %}{% endfor %}", "may run without end"),
        ("{% for i in range(999) %}{% for j in range(999) %}{% endfor %}{% endfor %}", "may run without end"),
        ("{{ 'a' * 999999999 }}", "may run without end"),
        *((one, "may run without end") for one in ENDLESS),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself too deeply"),
        ("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", "calls itself too deeply"),
        ("{{ raise_exception('roles must alternate') }}", "refuses the chat: roles must alternate"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages[0].content.nothing.at_all }}", "refuses the chat"),
        ("{{ 1 / 0 }}", "refuses the chat"),
        ("{{ messages[0]['content'] }}", "keeps 0 of them"),
        ("{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}", "keeps 2 of them"),
    ],
)
def test_a_template_that_misbehaves_is_one_sentence_with_the_sample(template: str, said: str) -> None:
    sample = Sample("poor", (Text("Who?", "user"), Text("me.", "assistant", target=True)))
    with pytest.raises(DataError, match=f"'poor'.*{re.escape(said)}"):
        ChatTemplate(template).render(sample)


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ 'a' | no_such_filter }}",
        "{% for a in messages %}" * 30 + "{% endfor %}" * 30,  # more than Python's own blocks may nest
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "9" * 5000 + " }}",
    ],
)
def test_a_template_that_is_no_jinja_is_an_error_of_the_checkpoint(template: str) -> None:
    with pytest.raises(CheckpointError, match="not Jinja"):
        ChatTemplate(template).render(Sample("a", (Text("x", "user"),)))


def test_chats_that_are_rendered_at_once_have_a_budget_each() -> None:
    environment = bounded_environment()
    budget = environment.start(5_000)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(environment.start).result() == budget - 5_000
        with pytest.raises(TooLong):
            other.submit(environment.spend, budget - 4_999).result()
    environment.spend(budget)
    with pytest.raises(TooLong):
        environment.spend()


def test_pictures_that_a_template_loses_or_a_text_feigns_are_told() -> None:
    deaf = "{% for message in messages %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}"
    with pytest.raises(DataError, match="'chat' has 1 pictures, but the chat template made room for 0"):
        ChatTemplate(deaf).render(CHAT)
    feigned = Sample("sly", (Text("Look: <image>", "user"), Text("no", "assistant", target=True)))
    with pytest.raises(DataError, match="'sly' has 0 pictures, but the chat template made room for 1"):
        ChatTemplate(CHATML).render(feigned)
    with pytest.raises(
        DataError, match="'plain' has '<image>' in its text, a token that stands for a part of an image"
    ):
        processor()([Sample("plain", (GREY, Text("Look: <image>", target=True)))])
    with pytest.raises(DataError, match=r"U\+E010"):
        ChatTemplate(CHATML).render(Sample("odd", (Text(IMAGE, "user"),)))
    film = Sample("film", (Video((GREY,), (0.0,)), Text("What?", "user"), Text("No", "assistant", target=True)))
    with pytest.raises(DataError, match="'film'"):
        processor()([film])
    with pytest.raises(DataError, match="a video has no frames"):
        Video((), ())


WRITTEN = Sample(
    "drawn",
    (
        Text("Draw a cat.", "user"),
        Text("Here:", "assistant", target=True),
        Image(GREY.source, role="assistant", target=True),
        Text("Now a dog.", "user"),
        Image(GREY.source, role="assistant", target=True),
    ),
)


def drawing_processor(template: str) -> ChatProcessor:
    layout = Codes(4, 2, ImageTransform(size=8))
    backend = Tokenizer.from_str(vocabulary())
    backend.add_special_tokens([layout.image_token, *layout.marks])
    return ChatProcessor(backend, ChatSettings(200, layout, "", ("<|im_end|>", "<|endoftext|>"), {}), template)


@pytest.mark.parametrize("content", ["parts", "text"])
def test_images_of_the_assistant_are_learned_with_their_marks(content: str) -> None:
    template = CHATML
    if content == "text":
        template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    made = drawing_processor(template)
    rendered = made.render(WRITTEN)
    image = "<begin_image><image><image><end_image>"
    turns = ("user\nDraw a cat.", f"assistant\nHere:{image}", "user\nNow a dog.", f"assistant\n{image}")
    assert rendered.text == "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in turns)
    assert [rendered.text[first:end] for first, end in rendered.spans] == [
        "Here:",
        f"{image}<|im_end|>",
        f"{image}<|im_end|>",
    ]
    stream = made([WRITTEN]).stream
    assert stream is not None
    assert stream.target_T[stream.image_mask_T].all()
    question = made.render(replace(WRITTEN, parts=(GREY, *WRITTEN.parts[:1])))
    assert question.text.startswith(f"<|im_start|>user\n{image}Draw a cat."), "an image without a role is the user's"
    assert question.spans == ()


def test_images_are_learned_without_a_template_too() -> None:
    made = drawing_processor("")
    image = "<begin_image><image><image><end_image>"
    rendered = made.render(WRITTEN)
    assert rendered.text == f"Draw a cat.Here:{image}<|im_end|>Now a dog.{image}<|im_end|>"
    assert [rendered.text[first:end] for first, end in rendered.spans][1:] == [f"{image}<|im_end|>"] * 2


def test_images_to_learn_are_refused_by_models_that_write_none() -> None:
    with pytest.raises(DataError, match="'drawn' has images to learn, but this model writes none"):
        processor().render(WRITTEN)


def test_an_answer_has_the_role_of_the_assistant() -> None:
    answered = Sample("q", CHAT.parts[:3]).answered("Like this:", GREY)
    text, image = answered.parts[3:]
    assert isinstance(text, Text)
    assert isinstance(image, Image)
    assert (text.role, image.role, image.target) == ("assistant", "assistant", False)
    assert (GREY.role, image.source is GREY.source) == ("", True), "the image that was given is left as it is"
    assert [
        part.role for part in Sample("q", (Text("x"),)).answered("y", GREY).parts if not isinstance(part, Video)
    ] == [
        "",
        "",
        "",
    ]
