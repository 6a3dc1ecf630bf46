"""Packages that tests compare with, and that cannot be installed beside the others in the ordinary way.

Import this before using transformers: where a torchvision is present that does not fit the installed torch, it would
fail on that."""

import importlib
import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

# Where `make test` puts them; last, so that they hide nothing.
sys.path.append(str(Path(sys.prefix) / "peers"))

_OPERATORS: list[torch.library.Library] = []  # a declaration lives as long as its library object


def open_clip() -> ModuleType:
    """The package open_clip; skips the test where it is not installed."""
    for package in ("open_clip", "timm", "torchvision", "ftfy"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: `make test` installs the packages of peers.txt; see its Makefile rule")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside of the peers are not ours
        return importlib.import_module("open_clip")


def torchvision() -> None:
    """What transformers' processors of videos want; skips the test where it is not installed."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision: `make test` installs the packages of peers.txt; see its Makefile rule")


def _declare_operators() -> None:
    """Lets a torchvision be imported whose compiled operators do not exist for this torch.

    They are not called here, but Python code that registers variants of them wants them declared.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _OPERATORS.append(library)
        importlib.import_module("torchvision")


if importlib.util.find_spec("torchvision") is not None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _declare_operators()
