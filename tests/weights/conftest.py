"""No model is compared that was not shaken: every foreign checkpoint that a test here opens is looked at."""

from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn

from tests.weights.shaking import assert_shaken


@pytest.fixture(scope="package", autouse=True)
def nothing_unshaken_is_read() -> Iterator[None]:
    """Readers put a checkpoint's own tensors into a model (`assign`), and there they are looked at."""
    load = nn.Module.load_state_dict

    def checked(self: nn.Module, state: Any, strict: bool = True, assign: bool = False) -> Any:
        if assign:
            assert_shaken(state, f"the checkpoint of this {type(self).__name__}")
        return load(self, state, strict, assign)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "load_state_dict", checked)
        yield
