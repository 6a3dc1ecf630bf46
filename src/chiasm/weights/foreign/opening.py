"""The choice of the class of transformers that opens a checkpoint, and of our class around it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch

from chiasm.config import suggest
from chiasm.errors import CheckpointError, MissingExtra
from chiasm.models.fitting import report_misfits
from chiasm.weights.checkpoint_folder import CheckpointFolder
from chiasm.weights.foreign.comparing import MATCHES, ForeignEmbedder, ForeignMatcher
from chiasm.weights.foreign.generative import ForeignGenerativeModel, ForeignVisionLanguageModel
from chiasm.weights.foreign.model import Config, ForeignModel
from chiasm.weights.foreign.processor import ForeignProcessor, first_line, read_processor


def load(folder: CheckpointFolder, known: list[str]) -> ForeignModel:
    """The model of a folder, as transformers computes it, in evaluation mode.

    known: the families that chiasm reads itself, suggested in the error about an unknown architecture.
    Raises what `choose` does; CheckpointError for weights that are no safetensors, and tensors that are missing or
    misshapen.
    """
    return _opened(folder, *choose(folder, known))


def choose(folder: CheckpointFolder, known: list[str]) -> tuple[Any, type[ForeignModel]]:
    """The class of transformers for a folder's settings, and our class around it; weights may be absent yet.

    Raises MissingExtra without transformers; CheckpointError for an architecture that it does not know either, one that
    needs code of its own, and one with none of the three verbs.
    """
    settings = folder.settings
    kind = str(settings["model_type"])
    try:
        import transformers
    except ImportError as error:
        purpose = f"{folder} holds a '{kind}', which chiasm does not read itself; to open it with transformers"
        raise MissingExtra("transformers", "transformers", purpose) from error
    if kind not in transformers.CONFIG_MAPPING:
        if settings.get("auto_map"):
            raise CheckpointError(
                f"{folder} holds a '{kind}', which runs only by code of its own; such code is never run here"
            )
        raise CheckpointError(
            f"{folder} holds a '{kind}', which neither chiasm nor transformers {transformers.__version__} "
            f"knows{suggest(kind.replace('-', '_'), known)}"
        )
    for architecture in _candidates(settings):
        if (wrapper := _wrapper(architecture)) is not None:
            return architecture, wrapper
    raise CheckpointError(
        f"{folder} holds a '{kind}' of transformers, which can neither embed, score nor generate for pictures and texts"
    )


def _candidates(settings: dict[str, Any]) -> Iterator[Any]:
    """Classes that may open the checkpoint: the one that it names, then those that transformers has for its type."""
    import transformers
    from transformers.models.auto import modeling_auto

    kind = settings["model_type"]
    for name in settings.get("architectures") or ():
        named = getattr(transformers, str(name), None)
        if isinstance(named, type) and getattr(named.config_class, "model_type", None) == kind:  # type: ignore[attr-defined]  # a model's
            yield named
    config = transformers.CONFIG_MAPPING[kind]
    for table in (
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING,
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        modeling_auto.MODEL_MAPPING,
    ):
        if config in table:
            found = table[config]
            yield from found if isinstance(found, tuple) else (found,)


def _wrapper(architecture: Any) -> type[ForeignModel] | None:
    """Our class around a class of transformers; None where it has none of our methods."""
    from transformers.models.auto import modeling_auto

    sighted = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()
    reading = (
        *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
        *modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values(),
    )
    if MATCHES in inspect.signature(architecture.forward).parameters:
        return ForeignMatcher
    if architecture.__name__ in sighted:
        return ForeignVisionLanguageModel
    if architecture.__name__ in reading:
        return ForeignGenerativeModel
    if hasattr(architecture, "get_image_features") and hasattr(architecture, "get_text_features"):
        return ForeignEmbedder
    return None


def _opened(folder: CheckpointFolder, architecture: Any, wrapper: type[ForeignModel]) -> ForeignModel:
    settings = folder.settings
    kind = settings["model_type"]
    if not any(folder.path.glob("*.safetensors")):
        raise CheckpointError(f"{folder} holds no safetensors; of a '{kind}', foreign here, no other weights are read")
    given, seeing = read_processor(folder.path), wrapper is not ForeignGenerativeModel
    if not seeing:
        given = getattr(given, "tokenizer", given)
    elif not hasattr(given, "image_processor"):
        raise CheckpointError(f"{folder} has no image processor, so its '{kind}' cannot be shown any")
    inner = _weights(folder, architecture)
    processor = ForeignProcessor(given, seeing, _ends(folder, inner))
    return wrapper(Config(kind, architecture.__name__, settings), processor, inner).eval()


def _weights(folder: CheckpointFolder, architecture: Any) -> Any:
    """The model with its tensors. Raises CheckpointError that lists those that are missing or misshapen."""
    import transformers

    try:
        model, found = architecture.from_pretrained(
            folder.path,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are reported below, by their shapes
            output_loading_info=True,
        )
    except ImportError as error:
        raise CheckpointError(f"{folder}: transformers' {architecture.__name__} needs more: {error}") from error
    except (OSError, ValueError, RuntimeError) as error:
        message = f"transformers {transformers.__version__} cannot open {folder}: {first_line(error)}"
        raise CheckpointError(message) from error
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    report_misfits(
        str(folder),
        "its config",
        missing={name: shapes.get(name, ()) for name in sorted(found["missing_keys"])},
        unexpected={},  # transformers leaves such out where its class knows that it does not need them
        misshapen={name: (has, wants) for name, has, wants in found["mismatched_keys"]},
    )
    return model


def _ends(folder: CheckpointFolder, inner: Any) -> list[int]:
    """The tokens that end an answer: those of `generation_config.json`, else of the config."""
    stated = folder.entries("generation_config.json").get("eos_token_id")
    if stated is None:
        stated = getattr(inner.config.get_text_config(), "eos_token_id", None)
    return list(stated) if isinstance(stated, list) else [] if stated is None else [int(stated)]
