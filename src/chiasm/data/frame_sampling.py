"""Which frames of a video are read: by their number or by their rate, evenly spread."""

from __future__ import annotations

from dataclasses import dataclass

from chiasm.data.video import Video
from chiasm.errors import RecipeError


@dataclass(frozen=True)
class FrameSampling:
    """Frames spread evenly over a video, as transformers' video processors choose them.

    frames: so many of each video. fps: so many a second, where `frames` is None. If both are None, all are read.
    min_frames, max_frames: bounds of the number that `fps` gives; max_frames bounds given frames and `frames` too.
    centred: whether frame i is from the middle of the i-th of n equal segments (InternVL), or its start (Qwen2-VL).
    multiple: the number is a multiple of this, where the video has as many.
    Videos given as frames were sampled before, so all of these are read, unless there are more than max_frames.
    """

    frames: int | None = None
    fps: float | None = None
    min_frames: int = 1
    max_frames: int = 768
    centred: bool = False
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.frames is not None and self.fps is not None:
            raise RecipeError("sampling: give either frames or fps")
        if not 1 <= self.min_frames <= self.max_frames or self.multiple < 1:
            raise RecipeError(
                f"sampling: between {self.min_frames} and {self.max_frames} frames, in multiples of {self.multiple}, "
                "are none"
            )
        if (self.frames is not None and self.frames < 1) or (self.fps is not None and self.fps <= 0):
            raise RecipeError("sampling: frames must be at least 1, and fps above 0")

    def indices(self, video: Video) -> tuple[int, ...]:
        """The numbers of the frames that are read, ascending."""
        total = video.count
        if video.frames is not None:
            return spread(total, min(total, self.max_frames), self.centred)
        return spread(total, self._number(total, video.rate), self.centred)

    def _number(self, total: int, rate: float) -> int:
        if self.fps is None:
            wanted = total if self.frames is None else round(self.frames / self.multiple) * self.multiple
            return max(1, min(wanted, self.max_frames, total))
        most = min(self.max_frames, total) // self.multiple * self.multiple
        wanted_frames = min(max(total / rate * self.fps, self.min_frames), most, total)
        return max(1, int(wanted_frames / self.multiple) * self.multiple)


def spread(total: int, count: int, centred: bool) -> tuple[int, ...]:
    """`count` of `total` indices, evenly spread: the first, or the middle, of so many equal segments."""
    step = total / count
    first = step / 2 if centred else 0.0
    return tuple(min(total - 1, int(first + at * step)) for at in range(count))
