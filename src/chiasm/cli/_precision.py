"""The flag of commands that ask a model: the precision that it computes in."""

from __future__ import annotations

import argparse


def add_precision(parser: argparse.ArgumentParser, default: str = "float32") -> None:
    """Declares --precision, as `chiasm.load` takes it."""
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bf16", "fp16"),
        default=default,
        help="that the model computes in; auto measures whether this device is faster in bf16 (default: %(default)s)",
    )
