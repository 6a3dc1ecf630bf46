"""The released code of BLIP-2's first stage, from the peer package salesforce-lavis, run as it stands.

The package itself cannot be imported: it asks for a dozen others, and for a transformers of years ago. Two files of it
are enough, with the few names of old versions that they want put in their places while they are read."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from tests import peers  # noqa: F401  # puts the peers where they are found


def _folder() -> Path:
    found = importlib.util.find_spec("lavis")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs salesforce-lavis: `make test` installs the packages of peers.txt; see its Makefile rule")
    return Path(found.submodule_search_locations[0]) / "models" / "blip2_models"


@contextlib.contextmanager
def _standing_in(modules: dict[str, ModuleType]) -> Iterator[None]:
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _module(name: str, **entries: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(entries)
    return module


def _read(file: Path, modules: dict[str, ModuleType]) -> Any:
    spec = importlib.util.spec_from_file_location(f"lavis_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _standing_in({**modules, spec.name: module}):
        spec.loader.exec_module(module)
    return module


def q_former(config: transformers.BertConfig) -> Any:
    """Its BertLMHeadModel."""
    from transformers import modeling_utils, pytorch_utils

    old = {
        "PreTrainedModel": modeling_utils.PreTrainedModel,
        "apply_chunking_to_forward": pytorch_utils.apply_chunking_to_forward,
        "find_pruneable_heads_and_indices": None,
        "prune_linear_layer": None,
    }
    stand_ins = {
        "transformers.modeling_utils": _module("transformers.modeling_utils", **old),
        "transformers.file_utils": _module("transformers.file_utils", ModelOutput=transformers.utils.ModelOutput),
    }
    module = _read(_folder() / "Qformer.py", stand_ins)
    # Gone from transformers.
    module.BertModel.get_head_mask = lambda _self, _mask, layers: [None] * layers
    module.BertModel.invert_attention_mask = lambda _self, mask: (1.0 - mask[:, None, None]) * -10_000.0
    module.BertPreTrainedModel.init_weights = lambda _self: None  # the test sets every weight
    return module.BertLMHeadModel(config)


def losses(parts: SimpleNamespace, pixels: torch.Tensor) -> Any:
    """What its Blip2Qformer.forward makes of these parts, in one process."""
    gather = {"all_gather_with_grad": lambda rows: rows, "concat_all_gather": lambda rows: rows}
    ignored = SimpleNamespace(register_model=lambda _name: lambda kind: kind)
    output = lambda **named: SimpleNamespace(**named)  # noqa: E731
    names: dict[str, dict[str, Any]] = {
        "lavis": {},
        "lavis.common": {},
        "lavis.common.registry": {"registry": ignored},
        "lavis.models": {},
        "lavis.models.base_model": gather,
        "lavis.models.blip2_models": {},
        "lavis.models.blip2_models.blip2": {"Blip2Base": nn.Module, "compute_sim_matrix": 0, "disabled_train": 0},
        "lavis.models.blip_models": {},
        "lavis.models.blip_models.blip_outputs": {"BlipOutput": output, "BlipOutputFeatures": output},
    }
    module = _read(_folder() / "blip2_qformer.py", {name: _module(name, **own) for name, own in names.items()})
    module.dist = SimpleNamespace(get_rank=lambda: 0)
    return module.Blip2Qformer.forward(parts, {"image": pixels, "text_input": None})
