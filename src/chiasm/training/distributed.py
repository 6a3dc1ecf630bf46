"""Processes that train one model together: who they are, what they agree on, what becomes of them when one is gone.

`torchrun` starts them and tells each its rank; `Ranks()` is a process on its own, for which all of this is nothing."""

from __future__ import annotations

import gc
import os
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous

from chiasm.errors import ChiasmError, TrainingError
from chiasm.training.settings import Training

T = TypeVar("T")
_PATIENCE = timedelta(days=7)  # for an evaluation or a save on one rank: only a dead rank ends this wait
_FIGURES = 60  # losses of a model, at most
_ROLL_CALL = 3.0  # seconds in which the living ranks answer once one is missed


class StoppedElsewhere(TrainingError):
    """Raised on a rank that stops because another one cannot go on; that one alone prints the reason."""


@dataclass
class Ranks:
    """One process among `count`. local: its number on this machine, which is that of its GPU.

    Small facts travel by gloo on the CPU, so no GPU is waited for; tensors of the model by the default group.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    store: Store | None = None
    control: dist.ProcessGroup | None = None
    patient: dist.ProcessGroup | None = None
    bereaved: bool = False  # another rank is gone
    meshes: dict[str, DeviceMesh] = field(default_factory=dict)  # by the type of their devices

    @classmethod
    def of_environment(cls) -> Ranks:
        """The ranks of torchrun's environment variables; a process on its own where there are none."""
        rank, count, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return cls(rank, max(1, count), local)

    @property
    def first(self) -> bool:
        """Whether this is the rank that prints, writes and evaluates."""
        return self.rank == 0

    def connect(self, settings: Training | None) -> None:
        """Meets the others. settings: the recipe's; without them, defaults serve to tell that it cannot be read."""
        if self.count == 1:
            return
        limit = timedelta(seconds=settings.timeout if settings is not None else 60)
        gpu = settings is not None and settings.device != "cpu" and torch.cuda.is_available()
        if gpu:
            if self.local >= torch.cuda.device_count():
                raise TrainingError(
                    f"rank {self.rank} is process {self.local} of this machine, which has {torch.cuda.device_count()} "
                    "GPUs; start as many processes as there are GPUs with --nproc-per-node"
                )
            torch.cuda.set_device(self.local)
        self.store, _, _ = next(iter(rendezvous("env://", self.rank, self.count, timeout=limit)))
        backends = "cpu:gloo,cuda:nccl" if gpu else "cpu:gloo"
        dist.init_process_group(backends, store=self.store, rank=self.rank, world_size=self.count, timeout=limit)
        self.control = dist.new_group(backend="gloo", timeout=limit)
        self.patient = dist.new_group(backend="gloo", timeout=_PATIENCE)

    def disconnect(self) -> None:
        """Drops every process group and waits for its threads to end.

        A gloo group joins its threads when the last reference to it goes. Threads that outlive the interpreter run into
        memory that the C++ library frees at exit, which ends a finished process by a signal now and then.
        """
        for mesh in self.meshes.values():  # torch's caches of sharded layouts keep meshes, and these their groups
            vars(mesh).get("_pg_registry", {}).clear()
        self.meshes.clear()
        self.store = self.control = self.patient = None
        if not self.bereaved or dist.get_backend() == dist.Backend.GLOO:  # NCCL would wait for the rank that is gone
            dist.destroy_process_group()
        gc.collect()  # DDP and FSDP hold their groups in reference cycles

    def mesh(self, device: torch.device) -> DeviceMesh:
        """All ranks in a row, each with a device of this type; the same mesh whenever it is asked for."""
        if device.type not in self.meshes:
            self.meshes[device.type] = init_device_mesh(device.type, (self.count,))
        return self.meshes[device.type]

    def gather(self, values: Sequence[float], *, patient: bool = False) -> Tensor:
        """The values of every rank, (count, len(values)) float64. patient: waits however long a rank takes."""
        own = torch.tensor(values, dtype=torch.float64)
        if self.count == 1:
            return own[None]
        gathered = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(gathered, own, group=self.patient if patient else self.control)
        return torch.stack(gathered)

    def any(self, flag: bool) -> bool:
        """Whether the flag is true on any rank."""
        return bool(self.gather([flag]).any())

    def mean(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The means over the ranks. Raises TrainingError if the ranks have different figures."""
        if self.count == 1:
            return dict(figures)
        names = sorted(figures)
        mark = zlib.crc32(" ".join(names).encode())
        values = [figures[name] for name in names[:_FIGURES]]
        rows = self.gather([mark, *values, *[0.0] * (_FIGURES - len(values))])
        if len(names) > _FIGURES or not bool((rows[:, 0] == mark).all()):
            raise TrainingError(
                f"rank {self.rank} has the losses {', '.join(names)}, others have not; a model gives losses of the "
                f"same names for every batch, at most {_FIGURES}"
            )
        return dict(zip(names, rows[:, 1:].mean(0).tolist(), strict=False))

    def together(self, act: Callable[[], T]) -> T:
        """Runs what may fail on one rank alone; then all ranks stop, and the one that failed raises the reason."""
        error: ChiasmError | OSError | None = None
        value: T | None = None
        try:
            value = act()
        except (ChiasmError, OSError) as raised:
            if self.count == 1:
                raise
            error = raised
        failed = self.gather([error is not None], patient=True)[:, 0].nonzero().flatten().tolist()
        if error is not None and failed[0] == self.rank:
            raise error
        if failed:
            raise StoppedElsewhere(f"rank {failed[0]} cannot go on, and tells why") from error
        return cast("T", value)

    def on_first(self, act: Callable[[], T]) -> T | None:
        """Does something on the first rank while the others wait; None for them."""
        return self.together(lambda: act() if self.first else None)

    def in_turn(self, act: Callable[[], T]) -> T:
        """Does something on one rank after the other, for what writes files that all share."""
        found: list[T] = []
        for turn in range(self.count):
            self.together(lambda turn=turn: found.append(act()) if turn == self.rank else None)  # type: ignore[misc]
        return found[0]

    def refuse(self, error: ChiasmError) -> NoReturn:
        """Stops all ranks by what all of them know alike; the first tells it."""
        raise error if self.first else StoppedElsewhere("the first rank tells why")

    @contextmanager
    def watching(self, newest: Callable[[], str]) -> Iterator[None]:
        """Turns the failure of a collective into one sentence. newest: where a run can go on from, to end it with."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not _is_collective(error):
                raise
            self.bereaved = True
            missed = self._missed()
            living = [rank for rank in range(self.count) if rank not in missed]
            if missed and living[0] != self.rank:
                raise StoppedElsewhere(f"rank {living[0]} tells that rank {missed[0]} is gone") from error
            who = (
                f"rank {' and rank '.join(map(str, missed))} no longer"
                if missed
                else "one of the other ranks no longer"
            )
            raise TrainingError(
                f"{who} answers rank {self.rank}: it was killed, failed or hangs (its own output may tell more); "
                f"{newest()}"
            ) from error

    def _missed(self) -> list[int]:
        """The ranks that do not answer a roll call; none where the store that it goes through is gone too."""
        if self.store is None:
            return []
        names = [f"chiasm/here/{rank}" for rank in range(self.count)]
        try:
            self.store.set(names[self.rank], "")
            end = time.monotonic() + _ROLL_CALL
            while time.monotonic() < end and not self.store.check(names):
                time.sleep(0.1)
            return [rank for rank, name in enumerate(names) if not self.store.check([name])]
        except RuntimeError:  # DistError and its kin: whoever held the store died
            return []


@contextmanager
def joined(training: Callable[[], Training]) -> Iterator[Ranks]:
    """This process among those that torchrun started, connected while this lasts.

    training: reads the settings; where it fails, the ranks meet all the same, so that the failure is printed once.
    """
    ranks = Ranks.of_environment()
    if ranks.count == 1:
        yield ranks
        return
    try:
        settings = training()
    except ChiasmError:
        settings = None
    ranks.connect(settings)
    try:
        with ranks.watching(lambda: "go on with --resume, if a checkpoint was saved"):
            yield ranks
    except ChiasmError as error:
        cause: BaseException | None = error
        while cause is not None:  # their frames hold the model, and with it process groups
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__cause__ or cause.__context__
        ranks.disconnect()
        raise
    ranks.disconnect()


def _is_collective(error: RuntimeError) -> bool:
    """Gloo raises plain RuntimeErrors, which name its source files; all else of torch.distributed has a type."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
