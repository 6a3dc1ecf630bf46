"""A vision-language model that breaks its promise is told so by the contract that it breaks; see `test_contracts`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from chiasm.contracts import models
from chiasm.contracts.contract import Contract, Trial
from chiasm.data.batch import Batch
from chiasm.errors import ContractError, RecipeError
from chiasm.models import llava


class Careless(llava.LLaVA):
    """LLaVA, with what the test breaks."""

    broken = ""

    def check(self) -> None:
        if self.broken == "nameless":
            try:
                super().check()
            except RecipeError as error:
                raise RecipeError("this does not fit") from error
        elif self.broken != "unchecked":
            super().check()

    def weight(self, batch: Batch) -> int:
        return 1 if self.broken == "weight" else super().weight(batch)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        losses, tokens = super().losses(batch), super().weight(batch)
        return {name: loss * tokens for name, loss in losses.items()} if self.broken == "sum" else losses


@dataclass(frozen=True)
class CarelessConfig(llava.Config):
    """As LLaVA's."""

    @classmethod
    def model(cls) -> type[llava.LLaVA]:
        return Careless


_llava = llava.SIZES["small"]
SIZES = {"small": CarelessConfig(_llava.vision, _llava.language, layer=-1)}


@pytest.mark.parametrize(
    ("broken", "contract", "told"),
    [
        ("unchecked", models.refuses_another_layout, r"check\(\) takes the layout .*marked"),
        ("nameless", models.refuses_another_layout, "the error for another layout does not name it: this does not fit"),
        ("weight", models.parts_of_a_batch_add_up, r"weight\(\) of the parts of a batch does not add up"),
        ("sum", models.parts_of_a_batch_add_up, r"the loss 'next_token' is no mean over weight\(\)"),
    ],
)
def test_a_broken_vision_language_model_is_told(
    broken: str, contract: Contract, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract(Trial(CarelessConfig, tmp_path))
    monkeypatch.setattr(Careless, "broken", broken)
    with pytest.raises(ContractError, match=told):
        contract(Trial(CarelessConfig, tmp_path))
