"""A checkpoint folder describes itself: weights, config, processor, recipe and card. No pickle is ever read.

model.safetensors   config.json   processor/   recipe.yaml   README.md"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from chiasm import __version__
from chiasm.config import dump, parse
from chiasm.errors import CheckpointError
from chiasm.models.fitting import require_fit
from chiasm.models.model import Model, ModelConfig
from chiasm.models.tensor_file import save_file
from chiasm.nn.device import choose_device

WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "processor"


def save(model: Model, folder: Path, recipe: str = "", card: str = "") -> None:
    """Writes a checkpoint folder: aside first, then renamed to its place, so that it is never half there.

    recipe: the text of recipe.yaml; card: of README.md.
    Raises CheckpointError, leaving an older folder as it was, if it cannot be written.
    """
    aside = folder.with_name(folder.name + ".new")
    recover(folder)
    try:
        write(model, aside, recipe, card)
        sync(aside)
        replace(aside, folder)
    except (OSError, SafetensorError) as error:  # safetensors tells of a full disk in its own words
        shutil.rmtree(aside, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"cannot write the checkpoint {folder}: {reason}") from error


def write(model: Model, folder: Path, recipe: str, card: str) -> None:
    """Writes the files of a checkpoint into a folder that is made for it."""
    (folder / PROCESSOR).mkdir(parents=True)
    state = model.adaptation.write(model, folder) if model.adaptation is not None else model.state_dict()
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {"chiasm": __version__, **dump(model.config)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    model.processor.save(folder / PROCESSOR)
    if recipe:
        (folder / "recipe.yaml").write_text(recipe)
    if card:
        (folder / "README.md").write_text(card)


def replace(aside: Path, folder: Path) -> None:
    """Puts `aside`, which is whole, in the place of `folder`; `recover` mends what a kill in between leaves."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Finishes a `replace` that was cut short, and removes what else a save that was killed left behind."""
    aside, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():  # between the renames: NAME.new is whole, or it was not begun
        (aside if aside.exists() else old).rename(folder)
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def sync(folder: Path) -> None:
    """Has the disk take the files of a folder before a rename makes them count."""
    for path in (*folder.rglob("*"), folder):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def load(folder: Path, device: str = "cpu") -> Model:
    """The model of a checkpoint folder, ready to be asked. Raises CheckpointError, saying what is missing or wrong."""
    config = read_config(folder)
    processor = config.model().processor_type.load(folder / PROCESSOR)
    model = config.on_meta(processor).to_empty(device=choose_device(device))
    load_weights(model, folder / WEIGHTS)
    return model.eval()


def read_config(folder: Path) -> ModelConfig:
    """What a checkpoint folder says of its model. Raises CheckpointError where there is nothing."""
    file = folder / CONFIG
    if not file.exists():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {CONFIG}")
    require_current(folder)
    entries = json.loads(file.read_text())
    entries.pop("chiasm", None)
    return parse(ModelConfig, entries, str(file))  # type: ignore[type-abstract]  # one of its subclasses


def require_current(folder: Path) -> None:
    """Raises CheckpointError for a checkpoint of an older chiasm, whose entries and tensors have other names."""
    file = folder / CONFIG
    written = str(json.loads(file.read_text()).get("chiasm")) if file.exists() else ""
    if written.startswith("0.1."):
        raise CheckpointError(
            f"{folder} was written by chiasm {written}, whose checkpoints version {__version__} does not read; open it "
            "with the version that wrote it, or train it anew"
        )


def load_weights(model: nn.Module, file: Path) -> None:
    """Reads a safetensors file into a model that has just these tensors; CheckpointError lists what does not fit."""
    try:
        file.open("rb").close()  # safetensors says of a file that is not for us that it is not there
        tensors = load_file(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {file}; the checkpoint is incomplete") from error
    except PermissionError as error:
        raise CheckpointError(f"{file} may not be read by this user; have its owner allow it (chmod a+r)") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read; it may have been cut short: {error}") from error
    assign(model, tensors, str(file))


def assign(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Copies tensors into a model by name. Raises CheckpointError naming those that do not fit, see `require_fit`."""
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    require_fit(own, {name: tensor.shape for name, tensor in tensors.items()}, where, "its config")
    model.load_state_dict(tensors)
