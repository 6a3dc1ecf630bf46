"""Chat templates of strangers run here: they reach nothing, do only so much, and write only so much.

jinja2's sandbox keeps a template from the machine; it does not keep it from running for ever or filling the memory.
So each thing that a template can do is paid for out of a budget: steps of loops, calls, operators, and the length of
every text that is made, before it is made where it can be foreseen."""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from datetime import datetime
from typing import Any

from chiasm.errors import CheckpointError, MissingExtra

STEPS = 200_000  # for one chat, and one for each of its characters; templates of real checkpoints need a few hundred
_TEXT, _LIST = 100, 10  # characters and entries that are handled in one step
_LOOP, _MADE = "chiasm_loop", "chiasm_made"
_WRITING = ("join", "tojson", "string", "sum", "format", "pprint", "e", "escape", "urlencode", "xmlattr", "map")
_INDENTING = ("tojson", "indent")
_WIDE = re.compile(r"\d{5}|\*")  # a width in a format that is no width of a text


class TooLong(Exception):
    """A template has done more steps than it may."""


class _Room(threading.local):
    """The budget of steps that is left for the chat that a thread renders."""

    left = 0


def bounded_environment() -> Any:
    """jinja2's sandbox with what templates of checkpoints use, in which everything is paid for.

    `environment.start(characters)` fills the budget of the thread and returns it; TooLong is raised when it is spent.
    Templates are to be made by `environment.bounded(source)`. Raises MissingExtra without jinja2.
    """
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingExtra("jinja2", "chat", "a checkpoint's chat template") from error

    room = _Room()

    class Bounded(ImmutableSandboxedEnvironment):
        """A sandboxed environment that charges for every step; see jinja2's `call`, `getattr` and operators."""

        intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

        def start(self, characters: int = 0) -> int:
            room.left = STEPS + characters
            return room.left

        def spend(self, steps: int = 1) -> None:
            room.left -= steps
            if room.left < 0:
                raise TooLong

        def bounded(self, source: str) -> Any:
            if _LOOP in source or _MADE in source:
                raise CheckpointError(f"the chat template uses the name {_LOOP} or {_MADE}, which is not its own")
            return self.from_string(_paying(self.parse(source), 1 + len(source) // 1000))

        def call(self, __context: Any, __made: Any, *args: Any, **entries: Any) -> Any:
            self.spend()
            method = getattr(__made, "__wrapped__", __made)  # a sandbox wraps `format`
            owner = getattr(method, "__self__", None)
            if isinstance(owner, str | bytes | int):  # methods such as ljust, replace, join, format, to_bytes
                self.foresee(owner, (*args, *entries.values()))
            else:
                for value in (*args, *entries.values()):
                    self.look(value)
            return self.look(super().call(__context, __made, *args, **entries))

        def foresee(self, owner: Any, given: Sequence[Any]) -> None:
            """Pays for the longest text that a method of a text can make of what it is given."""
            length = len(owner) if isinstance(owner, str | bytes) else 1
            if isinstance(owner, str) and _WIDE.search(owner) and any(mark in owner for mark in "{%"):
                raise TooLong
            for argument in given:
                if isinstance(argument, int):
                    self.spend(abs(argument) // _TEXT)
                else:
                    self.spend(_length(argument, self.spend) * max(1, length) // _TEXT)

        def look(self, value: Any) -> Any:
            """Charges for a value by its length, and returns it."""
            if isinstance(value, Sized):
                self.spend(len(value) // (_TEXT if isinstance(value, str | bytes) else _LIST))
            return value

        def getattr(self, obj: Any, attribute: str) -> Any:
            self.spend()
            return super().getattr(obj, attribute)

        def getitem(self, obj: Any, argument: Any) -> Any:
            self.spend()
            return super().getitem(obj, argument)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            self.spend()
            if operator == "%" and isinstance(left, str):
                self.foresee(left, right if isinstance(right, tuple) else (right,))
            elif operator in ("*", "**"):
                self.spend(_size(left) * max(1, _size(right)))
            self.look(left)
            self.look(right)
            return self.look(super().call_binop(context, operator, left, right))

    environment = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _generation()])

    def paid(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(filter_)  # keeps the mark by which jinja2 hands it the context
        def run(*args: Any, **entries: Any) -> Any:
            environment.spend()
            given = args[1:] if hasattr(filter_, "jinja_pass_arg") else args  # less the context
            for value in (*given, *entries.values()):
                if name in _WRITING:
                    environment.spend(_length(value, environment.spend) // _TEXT)
                if isinstance(value, int):
                    lines = _length(given[0], environment.spend) if name in _INDENTING else 1
                    environment.spend(abs(value) * lines // _TEXT)
                elif isinstance(value, str | bytes | list | tuple | dict):
                    environment.look(value)
            if name in ("replace", "format"):
                environment.foresee(str(given[0]), (*given[1:], *entries.values()))
            if name == "join" and isinstance(given[0], Sized):
                between = str((*given[1:], *entries.values(), "")[0])
                environment.spend(len(given[0]) * len(between) // _TEXT)
            return environment.look(filter_(*args, **entries))

        return run

    def bounded_range(*bounds: int) -> range:
        steps = range(*bounds)
        environment.spend(len(steps))
        return steps

    def loop(values: Any, steps: int) -> Any:
        """The values of a loop, charged at its beginning, or one by one where their number is unknown."""
        if isinstance(values, Sized):
            environment.spend(len(values) * steps)
            return values
        return _paid_one_by_one(values, lambda: environment.spend(steps))

    def made(value: Any) -> Any:
        """A value that becomes text, or is compared."""
        environment.spend(1 + _length(value, environment.spend) // _TEXT)
        return value

    def refuse(message: str) -> str:
        raise TemplateError(message)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def now(form: str) -> str:
        environment.spend(1 + len(form) // _TEXT)
        return datetime.now().strftime(form)  # the local day, as transformers writes it

    environment.globals.pop("lipsum", None)
    environment.globals.update(range=bounded_range, raise_exception=refuse, strftime_now=now)
    environment.globals.update({_LOOP: loop, _MADE: made})
    environment.filters["tojson"] = to_json
    environment.filters.update({name: paid(name, function) for name, function in environment.filters.items()})
    return environment


def _paying(tree: Any, steps: int) -> Any:
    """A template in which loops, joined texts, slices, comparisons and what is written pay.

    steps: of one turn of a loop.
    """
    from jinja2 import nodes
    from jinja2.visitor import NodeTransformer

    def paid(name: str, *given: Any) -> Any:
        return nodes.Call(nodes.Name(name, "load"), list(given), [], None, None)

    class Paying(NodeTransformer):
        """A visitor that puts a charge around each costly node; its methods are named as jinja2 wants them."""

        def visit_For(self, node: Any) -> Any:
            self.generic_visit(node)
            node.iter = paid(_LOOP, node.iter, nodes.Const(steps))
            return node

        def visit_Concat(self, node: Any) -> Any:
            self.generic_visit(node)
            node.nodes = [paid(_MADE, child) for child in node.nodes]
            return node

        def visit_Getitem(self, node: Any) -> Any:
            self.generic_visit(node)
            # jinja2 makes plain Python of slices, which asks no environment.
            return paid(_MADE, node) if isinstance(node.arg, nodes.Slice) else node

        def visit_Output(self, node: Any) -> Any:
            self.generic_visit(node)
            node.nodes = [
                child if isinstance(child, nodes.TemplateData) else paid(_MADE, child) for child in node.nodes
            ]
            return node

        def visit_Compare(self, node: Any) -> Any:
            self.generic_visit(node)
            node.expr = paid(_MADE, node.expr)
            return node

    return Paying().visit(tree)


def _paid_one_by_one(values: Any, pay: Callable[[], None]) -> Iterator[Any]:
    for value in values:
        pay()
        yield value


def _length(value: Any, pay: Callable[[int], None]) -> int:
    """The characters that a value has as a text, about; looking into lists is paid for."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        pay(len(value) // _LIST)
        return sum(_length(key, pay) + _length(item, pay) for key, item in value.items())
    if isinstance(value, list | tuple):
        pay(len(value) // _LIST)
        return sum(_length(item, pay) + 1 for item in value)
    return value.bit_length() // 3 + 1 if isinstance(value, int) else 1


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else abs(int(value)) if isinstance(value, int) else 1


def _generation() -> type:
    """`{% generation %}`, by which some templates mark the assistant's words: here it stands for what is in it."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        """Keeps the body of the block."""

        tags = {"generation"}  # noqa: RUF012  # jinja2 wants a plain set on the class

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation
