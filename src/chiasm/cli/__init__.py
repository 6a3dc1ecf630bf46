"""The command line: one short module a command; the folder is the list of commands.

A command module's docstring is its help; `arguments(parser)` declares what it takes, `run(options)` does it."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from chiasm import __version__
from chiasm.additions import allowing
from chiasm.config import module_names
from chiasm.errors import ChiasmError

_PACKAGE = "chiasm.cli"


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status. A user's mistake is one sentence on stderr and status 2."""
    parser, commands = _parser()
    options, rest = parser.parse_known_args(words)
    changes = [word for word in rest if "=" in word and not word.startswith("-")]  # overrides may stand anywhere
    if len(changes) < len(rest) or (rest and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(word for word in rest if word not in changes) or rest[0]}")
    if changes:
        options.overrides += changes
    try:
        with allowing(*options.allow):
            return int(commands[options.command].run(options) or 0)
    except ChiasmError as error:
        sys.stderr.write(f"chiasm {options.command}: {error}\n")
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as in `chiasm ls models | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        sys.stderr.write(f"chiasm {options.command}: cannot use {error.filename}: {error.strerror}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"chiasm {options.command}: interrupted\n")
        return 130


def _parser() -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    parser = argparse.ArgumentParser(
        prog="chiasm",
        description="Choose, train, adapt, compare and serve vision-language models.",
        epilog="`chiasm COMMAND --help` shows examples of each; `chiasm demo` shows most of them at work.",
    )
    parser.add_argument("--version", action="version", version=f"chiasm {__version__}")
    choices = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands = {}
    for name in module_names(_PACKAGE):
        module = importlib.import_module(f"{_PACKAGE}.{name}")
        text = (module.__doc__ or "").strip()
        command = choices.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.arguments(command)
        shared_arguments(command)
        commands[name] = module
    return parser, commands


def shared_arguments(command: argparse.ArgumentParser) -> None:
    """What all commands take beside their own arguments."""
    command.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package whose classes checkpoints may name; importing it runs its code",
    )
