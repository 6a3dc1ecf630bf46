"""The flag --precision of commands that run a model."""

from __future__ import annotations

import argparse


def add_precision(parser: argparse.ArgumentParser, default: str = "float32") -> None:
    """Declares --precision, as `chiasm.load` takes it."""
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bf16", "fp16"),
        default=default,
        help="precision of the model; auto measures whether bf16 is faster on this device (default: %(default)s)",
    )
