"""Loading of checkpoints as models: chiasm's own folders, and the foreign formats, one adapter each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chiasm.adaptation import adapted
from chiasm.additions import allowing
from chiasm.errors import CapabilityError, CheckpointError
from chiasm.models import folder as model_folder
from chiasm.models.model import Model
from chiasm.nn.device import choose_device
from chiasm.nn.precision import PrecisionChoice, cast_weights, choose_precision
from chiasm.weights import adapters
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.files import TORCHSCRIPT, is_torchscript


def load(
    name: str | Path,
    device: str = "cpu",
    *,
    image_size: int | None = None,
    context: int | None = None,
    adapter: str | Path | None = None,
    precision: PrecisionChoice = "float32",
    allow: str | Sequence[str] = (),
) -> Model:
    """Opens a checkpoint: a run's folder, chiasm's own, or one in the layout of transformers or open_clip.

    name: a folder, or the name of a repository on the Hub, `owner/name` or `owner/name@revision`; `hf-hub:owner/name`
        asks for open_clip's files there. A folder of that name always comes first. In a folder, open_clip's layout is
        taken where only its files are there.
    image_size, context: of a dual encoder, to see pictures of that many pixels, or read that many tokens, with its
        learned positions resized as open_clip resizes them; see `models/resolution.py` for other ways.
    adapter: a folder of adapters to put on to it: of a run that adapted this very model, or in peft's own format, with
        its modules named as here or as in transformers. A run with adapters needs none: it knows its base.
    precision: of the weights and of the computation: "bf16" takes half the memory, and is
        fast on GPUs and on CPUs that multiply it in hardware; "auto" takes it where measuring the device shows that it
        is. "float32" is what scores are compared in.
    allow: packages whose classes the checkpoint may name, such as "my_package". They are imported, and importing runs
        their code; what is of no allowed package, and the program has not imported itself, is refused.
    Raises CheckpointError if there is no such checkpoint, or it is incomplete; RecipeError for a class that is not
    allowed.
    """
    where = choose_device(device)
    with allowing(*((allow,) if isinstance(allow, str) else allow)):
        model = _from_folder(Path(name), device) if Path(name).exists() else _from_hub(str(name))
        if image_size is not None or context is not None:
            _resize(model, image_size, context)
        model = model.to(where)
        if adapter is not None:
            model = adapters.put_on(model, Path(adapter))
    if (chosen := choose_precision(precision, where)) != "float32":
        cast_weights(model, chosen)
    return model


def _from_hub(text: str) -> Model:
    from chiasm.weights import hub, open_clip

    name = hub.name_of(text)
    if name is None:
        raise CheckpointError(f"there is no folder {text}; give the folder of a checkpoint, or OWNER/NAME on the Hub")
    folder, tokenizer_folder = hub.fetch(name)
    if name.means_open_clip(folder):
        return open_clip.read(folder, tokenizer_folder)
    return _opened(folder, "cpu")


def _resize(model: Model, image_size: int | None, context: int | None) -> None:
    from chiasm.models.dual_encoder import DualEncoder
    from chiasm.models.resolution import set_context, set_resolution

    if not isinstance(model, DualEncoder):
        raise CapabilityError(f"image_size and context are changed of dual encoders, not of a {type(model).__name__}")
    if image_size is not None:
        set_resolution(model, image_size)
    if context is not None:
        set_context(model, context)


def _from_folder(path: Path, device: str) -> Model:
    if (path / "checkpoint").is_dir():  # the folder of a run
        path = path / "checkpoint"
    if not path.is_dir():
        if is_torchscript(path):
            raise CheckpointError(TORCHSCRIPT.format(file=path))
        raise CheckpointError(f"{path} is a file; give the folder of a checkpoint, settings and all")
    return _opened(CheckpointFolder(path), device)


def _opened(folder: CheckpointFolder, device: str) -> Model:
    """The model of a folder, by what its settings say that it is."""
    if folder.is_open_clip:
        from chiasm.weights import open_clip

        return open_clip.read(folder, folder)
    if not folder.holds(model_folder.CONFIG):
        if folder.holds("recipe.yaml"):
            raise CheckpointError(
                f"the run in {folder} is not finished; go on with it: chiasm train RECIPE --out {folder} --resume"
            )
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {model_folder.CONFIG}")
    if folder.holds(adapted.FACTS):
        return adapted.load(folder.path, lambda base: adapted.merged(load(base)), device)
    if "family" in folder.settings:
        return model_folder.load(folder.path, device)
    if "model_type" in folder.settings:
        from chiasm.weights import transformers

        return transformers.read(folder)
    raise CheckpointError(
        f"{folder / model_folder.CONFIG} names neither a 'family' (chiasm) nor a 'model_type' (transformers)"
    )
