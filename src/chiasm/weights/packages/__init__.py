"""Pretrained weights that ship inside of Python packages, one file each; the folder is the registry.

Only tensors are read; no code of the packages is run. Each module offers `load()`, `tokenizer_file()` where the
package holds one, and `chat_entries()`, entries of a processor, where it chats."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from torch import Tensor, nn

from chiasm.config import module_names, suggest
from chiasm.errors import CheckpointError, MissingExtra, RecipeError
from chiasm.models.fitting import require_fit
from chiasm.models.folder import assign

M = TypeVar("M", bound=nn.Module)


def load_packaged(model: nn.Module, part: str, name: str) -> None:
    """Puts packaged weights into a part of a model, such as "vision.net".

    Raises RecipeError for an unknown part or package, CheckpointError if the part is built otherwise than the weights.
    """
    parts = dict(model.named_modules())
    if part not in parts:
        raise RecipeError(f"pretrained.{part}: the model has no such part{suggest(part, parts)}")
    loaded: nn.Module = choose(name, f"pretrained.{part}").load()
    assign(parts[part], loaded.state_dict(), f"the packaged '{name}'")


def choose(name: str, where: str) -> ModuleType:
    """The module of packaged weights by its name."""
    if name not in module_names(__name__):
        raise RecipeError(f"{where}: there are no packaged weights '{name}'{suggest(name, module_names(__name__))}")
    return importlib.import_module(f"{__name__}.{name}")


def load_strictly(
    module: M, state: Mapping[str, Tensor], foreign_name: Callable[[str], str], left_out: tuple[str, ...], source: str
) -> M:
    """The module with its tensors taken from a checkpoint that names them otherwise.

    foreign_name: the checkpoint's name for one of the module's tensors. left_out: names in the checkpoint that the
    module knowingly does without. source: how errors call the checkpoint.
    Raises CheckpointError naming the first tensors that are missing, unexpected and misshapen.
    """
    ours = module.state_dict()
    foreign = {foreign_name(name): name for name in ours}
    expected = {theirs: ours[name].shape for theirs, name in foreign.items()}
    found = {name: tensor.shape for name, tensor in state.items() if name not in left_out}
    require_fit(expected, found, source, type(module).__name__)
    module.load_state_dict({name: state[theirs] for theirs, name in foreign.items()}, assign=True)
    return module


def packaged(distribution: str, inside: str, purpose: str, beside: str = "") -> Path:
    """A file of an installed package; finding it does not import the package.

    beside: a command that installs it, where the extra does not. Raises MissingExtra where it is not installed.
    """
    spec = importlib.util.find_spec(distribution.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(distribution, "backbones", purpose, beside)
    file = Path(spec.submodule_search_locations[0]) / inside
    if not file.exists():
        raise CheckpointError(f"the installed '{distribution}' has no {inside}; install the version that chiasm names")
    return file
