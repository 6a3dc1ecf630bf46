"""Models with adapters: made, saved in peft's format beside what else learned, loaded onto their base, and merged.

adapters.json       the base, a mark of its weights, and which parts are quantised
adapters/PART/      adapter_config.json   adapter_model.safetensors     as peft writes them
model.safetensors   the other tensors that learned, such as a connector"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chiasm.adaptation.adapter import (
    AdapterConfig,
    Quantised,
    chosen_layers,
    linear_layers,
    refusals,
    require_peft,
)
from chiasm.adaptation.quantised import SmallLinear, quantise
from chiasm.errors import CheckpointError, RecipeError
from chiasm.models import folder as model_folder
from chiasm.models.model import Model, suggest_part
from chiasm.nn.device import choose_device

FACTS, ADAPTERS = "adapters.json", "adapters"
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_NAME, _PREFIX, _BASE = "default", "base_model.model.", ".base_layer"
_WHOLE = "model"  # the folder of an adapter that is of no single part

M = TypeVar("M", bound=Model)


@dataclass
class Adaptation:
    """What was added to a model. It is kept beside the model, as `model.adaptation`, and travels with its checkpoints.

    base: what `chiasm.load` opens for the model without adapters. mark: of the base's weights, see `fingerprint_of`.
    peft: by part, peft's wrapper of it. names: the tensors of the adapters, as the model's state calls them.
    quantised: which parts keep their frozen layers in few bits.
    """

    base: str
    mark: str
    peft: dict[str, Any] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)
    quantised: dict[str, Quantised] = field(default_factory=dict)

    def write(self, model: nn.Module, folder: Path) -> dict[str, Tensor]:
        """Writes the adapters into a checkpoint's folder; returns the other tensors that learned, by name."""
        here = Path(self.base).exists()
        base = str(Path(self.base).resolve()) if here else self.base
        facts = {
            "base": base,
            "near": os.path.relpath(Path(self.base).resolve(), folder.resolve()) if here else None,
            "mark": self.mark,
            "quantised": self.quantised,
        }
        (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
        for part, wrapper in self.peft.items():
            write_adapter(wrapper, part, base, folder / ADAPTERS / (part or _WHOLE))
        others = self._others(model)
        return {name: tensor for name, tensor in model.state_dict().items() if name in others}

    def read(self, model: nn.Module, folder: Path) -> dict[str, Tensor]:
        """What `write` has written, by the names of the model's state. Raises CheckpointError for what is missing."""
        known = model.state_dict()
        found = tensors_of(folder / model_folder.WEIGHTS)
        if foreign := sorted(found.keys() - known.keys()):
            raise CheckpointError(f"{folder / model_folder.WEIGHTS} has tensors that the model has not: {foreign[:10]}")
        for part in self.peft:
            file = folder / ADAPTERS / (part or _WHOLE) / TENSORS
            found |= self.named(model, part, tensors_of(file), str(file))
        return found

    def named(self, model: nn.Module, part: str, stored: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """An adapter's tensors, stored under peft's names, by the names of the model's state."""
        learned = {name for name, _ in model.named_parameters()}
        found = {}
        for name in self.names[part]:
            short = _PREFIX + name.replace(f".{_NAME}", "")
            key = short if short in stored else short.removesuffix(".weight")
            if key in stored:
                found[name] = stored[key]
            elif name in learned:  # else drawn from a seed, such as VeRA's matrices
                raise CheckpointError(f"{where} has no {short}: it is another adapter, or cut short")
        return found

    def _others(self, model: nn.Module) -> set[str]:
        """Tensors beside the adapters that training changes: what is not frozen, and the averages that norms count."""
        adapters = set().union(*self.names.values())
        found = {name for name, one in model.named_parameters(remove_duplicate=False) if one.requires_grad}
        for name, module in model.named_modules():
            if any(one.requires_grad for one in module.parameters(recurse=False)):
                found |= {f"{name}.{buffer}" for buffer, _ in module.named_buffers(recurse=False)}
        return found - adapters


def adapt(model: M, adapters: Mapping[str, AdapterConfig], base: str = "") -> M:
    """The model, with adapters in its parts: what was in these stands still, and the adapters learn in its place.

    adapters: by part, such as {"language": lora.Config(rank=8, targets=("q", "v"))}. Other parts stay as they are.
    base: where `chiasm.load` finds the model as it is now; checkpoints refer to it.
    Raises RecipeError for parts or layers that the model has not, MissingExtra without peft.
    """
    check_adapters(model, adapters)
    if not adapters:
        return model
    parts = dict(model.named_modules())
    adaptation = Adaptation(base, fingerprint_of(model.state_dict()))
    for part, config in adapters.items():
        layers = chosen_layers(parts[part], config.targets, f"adapters.{part}")
        _add(adaptation, model, part, config.for_peft(layers), config.quantise)
    model.adaptation = adaptation
    return model


def check_adapters(model: Model, adapters: Mapping[str, AdapterConfig]) -> None:
    """Raises RecipeError for parts or layers that the model has not, and for adapters that do not go together."""
    if model.adaptation is not None and adapters:
        raise RecipeError("the model has adapters already; merge them first (chiasm.adaptation.adapted.merged)")
    parts = dict(model.named_modules())
    for part, config in adapters.items():
        where = f"adapters.{part}"
        if part not in parts:
            raise RecipeError(f"{where}: the model has no such part{suggest_part(part, model)}")
        if inside := [other for other in adapters if other != part and other.startswith(f"{part}.")]:
            raise RecipeError(f"{where} and adapters.{inside[0]} adapt the same layers; give one of them")
        chosen_layers(parts[part], config.targets, where)


def load(folder: Path, open_base: Callable[[str], Model], device: str = "cpu") -> Model:
    """The model of a checkpoint with adapters, ready to be asked; open_base: how a base is opened, by name."""
    facts = _facts(folder)
    config = model_folder.read_config(folder)
    processor = config.model().processor_type.load(folder / model_folder.PROCESSOR)
    model = config.on_meta(processor).to_empty(device=choose_device(device))
    state = open_base(_base_of(folder, facts)).state_dict()
    model_folder.assign(model, state, f"the base {facts['base']}")
    return apply(model, folder)


def apply(model: Model, folder: Path) -> Model:
    """Puts the adapters, and what else learned, of a checkpoint on to the model that it began from.

    Raises CheckpointError if the model is another one.
    """
    facts = _facts(folder)
    adaptation = Adaptation(str(facts["base"]), fingerprint_of(model.state_dict()))
    if adaptation.mark != facts["mark"]:
        raise CheckpointError(
            f"{folder} holds adapters of {facts['base']}, and this model has other weights; load them on to that one"
        )
    peft = require_peft()
    for place in sorted((folder / ADAPTERS).iterdir()):
        part, config = "" if place.name == _WHOLE else place.name, peft.PeftConfig.from_pretrained(str(place))
        config.target_modules = [name.removeprefix(f"{part}.") for name in config.target_modules]
        _add(adaptation, model, part, config, facts["quantised"].get(part))
    model.adaptation = adaptation
    learned = adaptation.read(model, folder)
    put(model, learned)
    for name, one in model.named_parameters():  # what did not learn is the base's, and is not to be saved
        one.requires_grad_(name in learned)
    return model.eval()


def apply_peft(model: Model, folder: Path, names: Mapping[str, str] | None = None) -> Model:
    """Puts an adapter in peft's own format on to a model. names: of its modules, to ours; the same where None.

    Raises CheckpointError for an adapter of layers that the model does not have.
    """
    stored, config = tensors_of(folder / TENSORS), require_peft().PeftConfig.from_pretrained(str(folder))
    if getattr(config, "rank_pattern", None) or getattr(config, "alpha_pattern", None):
        raise CheckpointError(f"{folder / CONFIG} has ranks of single layers (rank_pattern), which we cannot follow")
    known = names if names is not None else {name: name for name in linear_layers(model)}
    renamed: dict[str, Tensor] = {}
    targets: set[str] = set()
    for name, tensor in stored.items():
        words = name.removeprefix(_PREFIX).split(".")
        module = next((one for at in range(len(words)) if (one := ".".join(words[:at])) in known), None)
        if module is None:
            raise CheckpointError(f"{folder / TENSORS} has '{name}', but the model has no such linear layer")
        rest = name.removeprefix(f"{_PREFIX}{module}.")
        renamed[f"{_PREFIX}{known[module]}.{rest}"] = tensor
        targets.add(known[module])
    config.target_modules = sorted(targets)
    adaptation = Adaptation("", fingerprint_of(model.state_dict()))
    _add(adaptation, model, "", config, None)
    model.adaptation = adaptation
    put(model, adaptation.named(model, "", renamed, str(folder / TENSORS)))
    return model.eval()


@torch.no_grad()
def merged(model: M) -> M:
    """A model of its own with the adapters' changes added to the weights, in full precision; itself without adapters.

    Where the base is quantised, the values that it stands for are taken: those that the adapters were trained with.
    """
    adaptation = model.adaptation
    if not isinstance(adaptation, Adaptation):
        return model
    plain = cast("M", model.config.on_meta(model.processor).to_empty(device=model.device))
    state = model.state_dict()
    values = {name.replace(_BASE, ""): tensor for name, tensor in state.items()}
    for part in adaptation.quantised:
        for name, layer in model.get_submodule(part).named_modules():
            if isinstance(layer, SmallLinear):
                values[f"{_dotted(part, name)}.weight".replace(_BASE, "")] = layer.dequantize()
    model_folder.assign(plain, {name: values[name] for name in plain.state_dict() if name in values}, "it")
    learns = [one.requires_grad for one in plain.parameters()]
    beside = Adaptation("", "")
    for part, wrapper in adaptation.peft.items():
        _add(beside, plain, part, copy.deepcopy(wrapper.peft_config[_NAME]), None)
        put(plain, {name: state[name] for name in beside.names[part] if name in state})
        beside.peft[part].merge_and_unload()
    for one, learned in zip(plain.parameters(), learns, strict=True):  # as the family has it
        one.requires_grad_(learned)
    return plain.eval()


def fingerprint_of(state: Mapping[str, Tensor]) -> str:
    """A short mark of a model's weights: of names, shapes, and up to 64 values of each tensor, evenly spread.

    A model on the meta device has no weights, and no mark.
    """
    if any(tensor.is_meta for tensor in state.values()):
        return ""
    mark = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        flat = tensor.detach().flatten()
        some = flat[:: max(1, len(flat) // 64)][:64].float().cpu()
        mark.update(f"{name} {tuple(tensor.shape)} ".encode() + some.numpy().tobytes())
    return mark.hexdigest()[:32]


@torch.no_grad()
def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies tensors into a model by name; it has more than these. Raises CheckpointError for another shape."""
    state = model.state_dict()
    for name, tensor in tensors.items():
        if state[name].shape != tensor.shape:
            raise CheckpointError(f"{name} is {tuple(tensor.shape)}, but the model's is {tuple(state[name].shape)}")
        state[name].copy_(tensor)


def tensors_of(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError where it cannot be read."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _add(adaptation: Adaptation, model: Model, part: str, config: Any, quantised: Quantised | None) -> None:
    """Adds one adapter; peft changes the part in place, and its wrapper stays outside of the model."""
    peft, module = require_peft(), model.get_submodule(part)
    if quantised is not None:
        quantise(module, quantised)
        adaptation.quantised[part] = quantised
    before = set(module.state_dict())
    config.inference_mode, config.base_model_name_or_path = False, None
    with refusals(f"adapters.{part}"):
        wrapper = peft.get_peft_model(module, config, adapter_name=_NAME)
    names = {name for name in module.state_dict() if name.replace(_BASE, "") not in before}
    adaptation.peft[part], adaptation.names[part] = wrapper, {_dotted(part, name) for name in names}


def write_adapter(
    wrapper: Any, part: str, base: str | None, folder: Path, names: Mapping[str, str] | None = None
) -> None:
    """Writes one adapter as peft does, but that names of modules begin at the model and not at the part.

    names: what else these are to be called. Raises CheckpointError for a module that is not among them.
    """
    from peft import get_peft_model_state_dict

    config = copy.deepcopy(wrapper.peft_config[_NAME])
    called = {}
    for name in wrapper.base_model.targeted_module_names:  # peft shortens long lists in the config
        full = _dotted(part, name)
        if names is not None and full not in names:
            raise CheckpointError(f"'{full}' has an adapter, but there is no such layer of its own elsewhere")
        called[name] = names[full] if names is not None else full
    config.base_model_name_or_path, config.inference_mode = base, True
    config.target_modules = sorted(called.values())
    stored = get_peft_model_state_dict(wrapper, adapter_name=_NAME, save_embedding_layers=False)
    tensors = {}
    for name, one in stored.items():
        short = name.removeprefix(_PREFIX)
        words = short.split(".")
        module = next((m for at in range(len(words), 0, -1) if (m := ".".join(words[:at])) in called), None)
        new = f"{called[module]}{short.removeprefix(module)}" if module is not None else short
        tensors[_PREFIX + new if module is not None else name] = one.detach().cpu().clone().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(tensors, folder / TENSORS)


def _facts(folder: Path) -> dict[str, Any]:
    file = folder / FACTS
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    return facts


def _base_of(folder: Path, facts: Mapping[str, Any]) -> str:
    """Where the base is now: beside the checkpoint as it was then, where it was then, or by its name on the Hub."""
    near = folder / str(facts["near"]) if facts["near"] else None
    if near is not None and near.exists():
        return str(near)
    base = str(facts["base"])
    if not base or (Path(base).is_absolute() and not Path(base).exists()):
        raise CheckpointError(
            f"{folder} holds adapters alone, and their base {base or '(unnamed)'} is not there; "
            "give it: chiasm.load(BASE, adapter=FOLDER)"
        )
    return base


def _dotted(part: str, name: str) -> str:
    return f"{part}.{name}" if part else name
