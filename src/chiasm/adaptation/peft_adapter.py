"""Adapters that peft computes: LoRA and its kin, which change linear layers. peft names and saves them, and its wrapper
stays outside of the model, so all else sees the model that it knows."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from torch import Tensor, nn

from chiasm.adaptation.adapter import Adapter, AdapterConfig, chosen_layers, linear_layers
from chiasm.adaptation.quantised import quieten_bitsandbytes
from chiasm.adaptation.tensors import dotted, put, tensors_of
from chiasm.errors import CheckpointError, MissingExtra, RecipeError
from chiasm.models.tensor_file import save_file

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
BASE_LAYER = ".base_layer"  # where peft keeps a layer that it has put another one around
_NAME, _PREFIX = "default", "base_model.model."


@dataclass(frozen=True)
class PeftConfig(AdapterConfig):
    """What adapters of linear layers have in common.

    targets: linear layers by the end of their names in the part, such as `[q, v]` or `[attention.q]`; "all-linear" is
        every linear layer, but for the head over the vocabulary.
    """

    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"

    @abstractmethod
    def for_peft(self, targets: list[str]) -> Any:
        """peft's own config, for linear layers of these names."""

    def check(self, part: nn.Module, where: str) -> None:
        chosen_layers(part, self.targets, where)

    def put_into(self, model: nn.Module, part: str) -> PeftAdapter:
        layers = chosen_layers(model.get_submodule(part), self.targets, f"adapters.{part}")
        return PeftAdapter(model, part, self.for_peft(layers))


class PeftAdapter(Adapter):
    """peft's wrapper of a part. config: peft's own; the part is changed in place."""

    def __init__(self, model: nn.Module, part: str, config: Any) -> None:
        peft, module = require_peft(), model.get_submodule(part)
        before = {name.replace(BASE_LAYER, "") for name in module.state_dict()}
        config.inference_mode, config.base_model_name_or_path = False, None
        with refusals(f"adapters.{part}"):
            self.wrapper: Any = peft.get_peft_model(module, config, adapter_name=_NAME)
        own = (name for name in module.state_dict() if name.replace(BASE_LAYER, "") not in before)
        self.part, self.names = part, frozenset(dotted(part, name) for name in own)

    def write(self, model: nn.Module, folder: Path, base: str) -> None:  # noqa: ARG002  # the wrapper has the tensors
        self.export(folder, base)

    def export(self, folder: Path, base: str | None, names: Mapping[str, str] | None = None) -> None:
        """Writes it as peft does, but that names of modules begin at the model and not at the part.

        names: what else these are to be called. Raises CheckpointError for a module that is not among them.
        """
        from peft import get_peft_model_state_dict

        config = copy.deepcopy(self.wrapper.peft_config[_NAME])
        called = {}
        for name in self.wrapper.base_model.targeted_module_names:  # peft shortens long lists in the config
            full = dotted(self.part, name)
            if names is not None and full not in names:
                raise CheckpointError(f"'{full}' has an adapter, but there is no such layer of its own elsewhere")
            called[name] = names[full] if names is not None else full
        config.base_model_name_or_path, config.inference_mode = base, True
        config.target_modules = sorted(called.values())
        tensors = {}
        stored = get_peft_model_state_dict(self.wrapper, adapter_name=_NAME, save_embedding_layers=False)
        for name, tensor in stored.items():
            short = name.removeprefix(_PREFIX)
            words = short.split(".")
            module = next((m for at in range(len(words), 0, -1) if (m := ".".join(words[:at])) in called), None)
            new = f"{called[module]}{short.removeprefix(module)}" if module is not None else short
            tensors[_PREFIX + new if module is not None else name] = tensor.detach().cpu().clone().contiguous()
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(folder))
        save_file(tensors, folder / TENSORS)

    def read(self, model: nn.Module, folder: Path) -> dict[str, Tensor]:
        return self.named(model, tensors_of(folder / TENSORS), str(folder / TENSORS))

    def named(self, model: nn.Module, stored: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """The tensors, stored under peft's names, by the names of the model's state."""
        learned = {name for name, _ in model.named_parameters()}
        found = {}
        for name in self.names:
            short = _PREFIX + name.replace(f".{_NAME}", "")
            key = short if short in stored else short.removesuffix(".weight")
            if key in stored:
                found[name] = stored[key]
            elif name in learned:  # else drawn from a seed, such as VeRA's matrices
                raise CheckpointError(f"{where} has no {short}: it is another adapter, or cut short")
        return found

    def merge(self, state: Mapping[str, Tensor], plain: nn.Module) -> None:
        beside = PeftAdapter(plain, self.part, copy.deepcopy(self.wrapper.peft_config[_NAME]))
        put(plain, {name: state[name] for name in beside.names if name in state})
        beside.wrapper.merge_and_unload()


def from_peft(model: nn.Module, folder: Path, names: Mapping[str, str] | None = None) -> PeftAdapter:
    """Puts an adapter in peft's own format into a model. names: of its modules, to ours; the same where None.

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
        module = next((head for at in range(len(words)) if (head := ".".join(words[:at])) in known), None)
        if module is None:
            raise CheckpointError(f"{folder / TENSORS} has '{name}', but the model has no such linear layer")
        rest = name.removeprefix(f"{_PREFIX}{module}.")
        renamed[f"{_PREFIX}{known[module]}.{rest}"] = tensor
        targets.add(known[module])
    config.target_modules = sorted(targets)
    adapter = PeftAdapter(model, "", config)
    put(model, adapter.named(model, renamed, str(folder / TENSORS)))
    return adapter


def reopened(model: nn.Module, part: str, folder: Path) -> PeftAdapter:
    """Puts an adapter of our own checkpoint into a part again, by the settings that peft keeps there."""
    config = require_peft().PeftConfig.from_pretrained(str(folder))
    config.target_modules = [name.removeprefix(f"{part}.") for name in config.target_modules]
    return PeftAdapter(model, part, config)


def require_peft() -> ModuleType:
    """The package peft. Raises MissingExtra where it is not installed."""
    quieten_bitsandbytes()
    try:
        import peft
    except ImportError as error:
        raise MissingExtra("peft", "adapters", "adapting a model") from error
    return peft


@contextmanager
def refusals(where: str) -> Iterator[None]:
    """Turns what peft says of settings that it cannot take into a RecipeError."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}: peft refuses it: {' '.join(str(error).split())}") from error
