"""Any other adapter of peft that changes linear layers, by the name of its config: LoHa, LoKr, IA3, OFT, BOFT, ..."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from chiasm.adaptation.peft_adapter import PeftConfig, refusals, require_peft
from chiasm.config import suggest
from chiasm.errors import RecipeError


@dataclass(frozen=True)
class Config(PeftConfig):
    """kind: a config class of peft without its last word, such as `LoHa` for LoHaConfig. settings: its fields."""

    kind: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def for_peft(self, targets: list[str]) -> Any:
        peft = require_peft()
        known: dict[str, Any] = {
            name.removesuffix("Config"): kind
            for name, kind in vars(peft).items()
            if name.endswith("Config") and isinstance(kind, type) and is_dataclass(kind)
        }
        if self.kind not in known:
            raise RecipeError(f"adapters: peft has no adapter of the kind '{self.kind}'{suggest(self.kind, known)}")
        chosen = known[self.kind]
        names = {field.name for field in fields(chosen)}
        if "target_modules" not in names:
            raise RecipeError(f"adapters: peft's {self.kind} does not change linear layers; lora and vera do")
        for name in self.settings:
            if name not in names:
                raise RecipeError(
                    f"adapters.settings.{name}: peft's {self.kind} has no such field{suggest(name, names)}"
                )
        with refusals(f"adapters.settings of {self.kind}"):
            return chosen(target_modules=targets, **self.settings)
