"""What two processes learn by each objective; `torchrun` starts this, `test_contracts` judges what it leaves.

Usage: ranks.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import save_file

from chiasm.training.distributed import joined
from chiasm.training.settings import Training
from tests.objectives.worlds import loop, state_of

if __name__ == "__main__":
    place = Path(sys.argv[1])
    with joined(lambda: Training(1, device="cpu", timeout=120)) as ranks:
        for name in ("distillation", "siglip2"):
            for way, accumulate in (("ddp", 1), ("fsdp", 1), ("fsdp", 2), ("ddp", 2)):
                key = f"{name}-{way}-{accumulate}"
                run = loop(place / key, name, ranks, parallel=way, accumulate=accumulate, checkpoint_every=3)
                run.run()
                state = state_of(run)
                again = loop(place / key, name, ranks, seed=4, parallel=way, accumulate=accumulate)
                again.resume()
                resumed = state_of(again)
                if ranks.first:
                    save_file(state, place / f"{key}.safetensors")
                    save_file(resumed, place / f"{key}-resumed.safetensors")
