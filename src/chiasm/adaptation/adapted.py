"""Models with adapters: made, saved beside what else learned, loaded onto their base, and merged where that can be.

adapters.json       the base, a fingerprint of its weights, and the adapter of each part as a recipe writes it
adapters/PART/      what each adapter writes; those of peft adapter_config.json and adapter_model.safetensors
model.safetensors   the other tensors that learned, such as a connector"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from chiasm.adaptation import peft_adapter
from chiasm.adaptation.adapter import Adapter, AdapterConfig
from chiasm.adaptation.quantised import SmallLinear, quantise
from chiasm.adaptation.tensors import dotted, fingerprint_of, put, tensors_of
from chiasm.config import dump, parse
from chiasm.errors import CapabilityError, CheckpointError, RecipeError
from chiasm.models import folder as model_folder
from chiasm.models.model import Model, suggest_part
from chiasm.nn.device import choose_device

FACTS, ADAPTERS = "adapters.json", "adapters"
_WHOLE = "model"  # the folder of an adapter that is of no single part

M = TypeVar("M", bound=Model)


@dataclass
class Adaptation:
    """The adapters of a model, kept as `model.adaptation` and saved with its checkpoints.

    base: what `chiasm.load` opens for the model without adapters. fingerprint: `fingerprint_of` the base's weights.
    configs, adapters: by part, what was chosen and what it became. An adapter that another program wrote has no config.
    """

    base: str
    fingerprint: str
    configs: dict[str, AdapterConfig] = field(default_factory=dict)
    adapters: dict[str, Adapter] = field(default_factory=dict)

    @property
    def quantised(self) -> list[str]:
        """Parts whose frozen linear layers are kept in few bits."""
        return [part for part, config in self.configs.items() if config.quantise is not None]

    @property
    def unmergeable(self) -> list[str]:
        """Parts whose adapters cannot become weights."""
        return [part for part, config in self.configs.items() if not config.mergeable]

    def described(self) -> str:
        """The adapters in words: "text: lora; vision: visual_prompts, which cannot be merged into weights"."""
        kinds = {part: config.chosen() for part, config in self.configs.items()}
        named = (f"{part or 'the model'}: {kinds.get(part, 'as peft wrote it')}" for part in self.adapters)
        stay = ", which cannot be merged into weights"
        return "; ".join(
            text + stay * (part in self.unmergeable) for part, text in zip(self.adapters, named, strict=True)
        )

    def write(self, model: nn.Module, folder: Path) -> dict[str, Tensor]:
        """Writes the adapters into a checkpoint's folder; returns the other tensors that learned, by name."""
        here = Path(self.base).exists()
        base = str(Path(self.base).resolve()) if here else self.base
        facts = {
            "base": base,
            "near": os.path.relpath(Path(self.base).resolve(), folder.resolve()) if here else None,
            "mark": self.fingerprint,
            "adapters": {part: dump(self.configs[part]) if part in self.configs else None for part in self.adapters},
        }
        (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
        for part, adapter in self.adapters.items():
            adapter.write(model, folder / ADAPTERS / (part or _WHOLE), base)
        others = self._others(model)
        return {name: tensor for name, tensor in model.state_dict().items() if name in others}

    def read(self, model: nn.Module, folder: Path) -> dict[str, Tensor]:
        """What `write` has written, by the names of the model's state. Raises CheckpointError for what is missing."""
        known = model.state_dict()
        found = tensors_of(folder / model_folder.WEIGHTS)
        if foreign := sorted(found.keys() - known.keys()):
            raise CheckpointError(f"{folder / model_folder.WEIGHTS} has tensors that the model has not: {foreign[:10]}")
        for part, adapter in self.adapters.items():
            found |= adapter.read(model, folder / ADAPTERS / (part or _WHOLE))
        return found

    def add(self, model: nn.Module, part: str, config: AdapterConfig) -> None:
        """Puts an adapter into a part of the model."""
        self._quantise(model, part, config)
        self.configs[part], self.adapters[part] = config, config.put_into(model, part)

    def reopen(self, model: nn.Module, part: str, config: AdapterConfig | None, folder: Path) -> None:
        """Puts an adapter that a checkpoint holds into a part again, without its values; `read` has these."""
        if config is not None and not isinstance(config, peft_adapter.PeftConfig):
            self.add(model, part, config)
            return
        if config is not None:  # peft's own file says which layers it changes
            self._quantise(model, part, config)
            self.configs[part] = config
        self.adapters[part] = peft_adapter.reopened(model, part, folder)

    def _quantise(self, model: nn.Module, part: str, config: AdapterConfig) -> None:
        if config.quantise is not None:
            quantise(model.get_submodule(part), config.quantise)

    def _others(self, model: nn.Module) -> set[str]:
        """Names of the other tensors that training changes: parameters that are not frozen, and running statistics."""
        adapters = frozenset[str]().union(*(adapter.names for adapter in self.adapters.values()))
        found = {name for name, tensor in model.named_parameters(remove_duplicate=False) if tensor.requires_grad}
        for name, module in model.named_modules():
            if any(tensor.requires_grad for tensor in module.parameters(recurse=False)):
                found |= {f"{name}.{buffer}" for buffer, _ in module.named_buffers(recurse=False)}
        return found - adapters


def adapt(model: M, adapters: Mapping[str, AdapterConfig], base: str = "") -> M:
    """Puts adapters into parts of a model and returns it: the parts' own weights are frozen, and the adapters learn.

    adapters: by part, such as {"language": lora.Config(rank=8, targets=("q", "v"))}. Other parts stay as they are.
    base: where `chiasm.load` finds the model as it is now; checkpoints refer to it.
    Raises RecipeError for parts or layers that the model has not, MissingExtra without peft where it is needed.
    """
    check_adapters(model, adapters)
    if not adapters:
        return model
    adaptation = Adaptation(base, fingerprint_of(model.state_dict()))
    for part, config in adapters.items():
        adaptation.add(model, part, config)
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
        config.check(parts[part], where)


def load(folder: Path, open_base: Callable[[str], Model], device: str = "cpu") -> Model:
    """The model of a checkpoint with adapters, in eval mode; open_base: opens a base model by its name."""
    facts = _facts(folder)
    config = model_folder.read_config(folder)
    processor = config.model().processor_type.load(folder / model_folder.PROCESSOR)
    model = config.on_meta(processor).to_empty(device=choose_device(device))
    state = open_base(_base_of(folder, facts)).state_dict()
    model_folder.assign(model, state, f"the base {facts['base']}")
    return apply(model, folder)


def apply(model: Model, folder: Path) -> Model:
    """Loads the adapters of a checkpoint, and the other tensors that learned, on to its base model.

    Raises CheckpointError if the model is another one.
    """
    facts = _facts(folder)
    adaptation = Adaptation(str(facts["base"]), fingerprint_of(model.state_dict()))
    if adaptation.fingerprint != facts["mark"]:
        raise CheckpointError(
            f"{folder} holds adapters of {facts['base']}, and this model has other weights; load them on to that one"
        )
    for part, entry in facts["adapters"].items():
        config = parse(AdapterConfig, entry, str(folder / FACTS)) if entry is not None else None  # type: ignore[type-abstract]
        adaptation.reopen(model, part, config, folder / ADAPTERS / (part or _WHOLE))
    model.adaptation = adaptation
    learned = adaptation.read(model, folder)
    put(model, learned)
    for name, parameter in model.named_parameters():  # what did not learn is the base's, and is not to be saved
        parameter.requires_grad_(name in learned)
    return model.eval()


def apply_peft(model: Model, folder: Path, names: Mapping[str, str] | None = None) -> Model:
    """Puts an adapter in peft's own format on to a model. names: of its modules, to ours; the same where None.

    Raises CheckpointError for an adapter of layers that the model does not have.
    """
    adaptation = Adaptation("", fingerprint_of(model.state_dict()))
    adaptation.adapters[""] = peft_adapter.from_peft(model, folder, names)
    model.adaptation = adaptation
    return model.eval()


@torch.no_grad()
def merged(model: M) -> M:
    """A model of its own with the adapters' changes added to the weights, in full precision; itself without adapters.

    Where the base is quantised, the values that it stands for are taken: those that the adapters were trained with.
    Raises CapabilityError for adapters that cannot become weights, such as prompts.
    """
    adaptation = model.adaptation
    if not isinstance(adaptation, Adaptation):
        return model
    if parts := adaptation.unmergeable:
        kind = adaptation.configs[parts[0]].chosen()
        raise CapabilityError(
            f"the adapter '{kind}' in the part '{parts[0]}' cannot be merged into its weights; keep the run's folder, "
            "which chiasm.load opens with it, go on with --resume, or begin from the model that it was put into"
        )
    plain = cast("M", model.config.on_meta(model.processor).to_empty(device=model.device))
    state = model.state_dict()
    values = {name.replace(peft_adapter.BASE_LAYER, ""): tensor for name, tensor in state.items()}
    for part in adaptation.quantised:
        for name, layer in model.get_submodule(part).named_modules():
            if isinstance(layer, SmallLinear):
                weight = f"{dotted(part, name)}.weight".replace(peft_adapter.BASE_LAYER, "")
                values[weight] = layer.dequantize()
    model_folder.assign(plain, {name: values[name] for name in plain.state_dict() if name in values}, "it")
    learns = [parameter.requires_grad for parameter in plain.parameters()]
    for adapter in adaptation.adapters.values():
        adapter.merge(state, plain)
    for parameter, learned in zip(plain.parameters(), learns, strict=True):  # as the family has it
        parameter.requires_grad_(learned)
    return plain.eval()


def _facts(folder: Path) -> dict[str, Any]:
    file = folder / FACTS
    try:
        facts: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    return facts


def _base_of(folder: Path, facts: Mapping[str, Any]) -> str:
    """Where the base is: by its path relative to the checkpoint, by its absolute path, or by its name on the Hub."""
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
