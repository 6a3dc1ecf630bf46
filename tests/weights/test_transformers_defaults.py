"""What a config leaves out is what the configuration classes of transformers take: published files say little."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import transformers

from chiasm.weights.transformers import _blip_2, _opt, idefics, kosmos_2
from tests import peers  # noqa: F401  # before any class of transformers is touched

Read = Callable[[Mapping[str, Any], str], Any]


def test_idefics() -> None:
    """But for the resampler, without which Idefics is not read."""
    theirs = transformers.IdeficsConfig(use_resampler=True).to_dict()
    assert idefics.read_config({"use_resampler": True}, "config.json") == idefics.read_config(theirs, "config.json")


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (_blip_2.read_vision, transformers.Blip2Config),
        (lambda settings, where: _blip_2.read_q_former(settings, where, text=False), transformers.Blip2Config),
        (_opt.read_decoder, transformers.OPTConfig),
        (kosmos_2.read_config, transformers.Kosmos2Config),
    ],
    ids=["BLIP-2's tower", "its Q-Former", "OPT", "Kosmos-2"],
)
def test_the_others(read: Read, kind: Any) -> None:
    assert read({}, "config.json") == read(kind().to_dict(), "config.json")
