"""From the steps of a padded batch to the sinks: each sequence's own rows, off the device.

On the CPU a tensor is handed out the moment it is seen. On an accelerator copies stay there until
the step ends; then all of them go to pinned memory on a stream of their own, and the host waits
once. Sketches, which are small, wait on every device: what is done between two operations of a
model costs five times its due.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.captures.manifest import runs
from pytest_falsify.captures.sketch import DIMS
from pytest_falsify.engines.arena import ALIGNMENT, Arena
from pytest_falsify.engines.arrays import as_numpy
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import STAGES, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

    from pytest_falsify.captures.sketch import Sketch
    from pytest_falsify.engines.base import Sink

    Array = np.ndarray[Any, Any]

MASKS = {"attn_softmax": "zero"}
CACHES = frozenset({"k_cache", "v_cache"})


class Stopped(Exception):  # noqa: N818 - no error: the last planned site has been seen
    """Ends a forward pass of which nothing more was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Where one sequence stands in one step of a batch.

    Attributes:
        index: its place in the batch.
        positions: of its tokens that are fed in this step.
        fed: its own columns among those that are fed in this step.
        padding: the columns of padding before and after its own, among all columns so far.
        columns: how many columns there are so far, padding included.
        chosen: the places among ``positions`` whose rows are kept; None: all.
        is_whole: whether every row that the batch has of this sequence is its own and kept.
    """

    index: int
    positions: tuple[int, ...]
    columns: int
    fed: slice = field(default_factory=lambda: slice(None))
    padding: tuple[int, int] = (0, 0)
    chosen: tuple[int, ...] | None = None
    is_whole: bool = field(init=False)

    def __post_init__(self) -> None:
        """Work out once what each tensor asks."""
        is_whole = self.chosen is None and self.fed == slice(None) and self.padding == (0, 0)
        object.__setattr__(self, "is_whole", is_whole)

    def own(self, stage: str, batch: Any) -> tuple[Any, tuple[int, ...]]:
        """Return this sequence's part of a tensor, and the positions along its ``t`` axis.

        Args:
            stage: whose tensor it is.
            batch: the tensor of all sequences, or an array: the batch's axis, then the stage's own.
        """
        part = batch[self.index]
        if self.is_whole and stage not in CACHES:
            return part, self.positions
        names = STAGES[stage].dims.split()
        for axis, name in enumerate(names):
            columns = self._columns(name, is_cache=stage in CACHES, length=part.shape[axis])
            if columns != slice(None):
                part = part[(*(slice(None),) * axis, columns)]
        rows = part.shape[names.index("t")] if stage in CACHES else len(self.positions)
        end = self.positions[-1] + 1
        positions = tuple(range(end - rows, end)) if stage in CACHES else self.positions
        return self._chosen(part, positions, names.index("t"))

    def _columns(self, name: str, *, is_cache: bool, length: int) -> slice:
        if name == "t" and not is_cache:
            return self.fed
        if name not in {"t", "s"} or self.padding == (0, 0):
            return slice(None)
        # A sliding window has forgotten the columns that it does not show, padding first.
        before = max(0, self.padding[0] - (self.columns - length))
        return slice(before, length - self.padding[1])

    def _chosen(
        self, part: Any, positions: tuple[int, ...], axis: int
    ) -> tuple[Any, tuple[int, ...]]:
        if self.chosen is None:
            return part, positions
        # Slices, for an index would have to be brought to the device, which waits for it.
        before = (slice(None),) * axis
        slices = [part[(*before, slice(first, end))] for first, end in runs(self.chosen)]
        kept = slices[0] if len(slices) == 1 else _concatenated(slices, axis)
        return kept, tuple(positions[each] for each in self.chosen)


def _concatenated(parts: list[Any], axis: int) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis)
    import torch

    return torch.cat(parts, axis)


class Channels(NamedTuple):
    """Which channels, along the last axis, a part of a tensor holds; parts come in their order."""

    first: int
    end: int
    width: int

    @property
    def is_last(self) -> bool:
        """Whether the tensor is whole with this part."""
        return self.end == self.width


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A copy that is still on the accelerator, or a sketch."""

    tensor: torch.Tensor
    site: Site
    positions: tuple[int, ...]
    sink: Sink
    sketch: Sketch | None = None


@dataclass(frozen=True, slots=True)
class _Taker:
    """A sequence, and who takes its tensors.

    What a sink says of itself is asked once a step, not between two operations of the model.
    """

    member: Member
    sink: Sink
    borrows: bool
    sketch_of: Callable[..., tuple[torch.Tensor, Sketch] | None] | None

    @classmethod
    def of(cls, member: Member, sink: Sink) -> _Taker:
        """Return one for a step."""
        if not wants_sketches(sink):
            return cls(member, sink, borrows(sink), None)
        from pytest_falsify.engines.sketching import sketch_of

        return cls(member, sink, borrows(sink), sketch_of)


@dataclass(slots=True, kw_only=True)
class HandOut:
    """Hands the tensors of a run to the sinks of the sequences, step by step.

    Attributes:
        waits: keep copies on the device until ``finish``.
        arena: where copies on the host are kept.
    """

    waits: bool = False
    arena: Arena = field(default_factory=Arena)
    _step: int = 0
    _takers: tuple[_Taker, ...] = ()
    _left: int | None = None
    _waiting: list[_Waiting] = field(default_factory=list)
    _parts: dict[tuple[Site, int], Any] = field(default_factory=dict)
    _lent: dict[Any, Array] = field(default_factory=dict)
    _ends: dict[Site, int] = field(default_factory=dict)

    def begin(
        self, step: int, members: Iterable[tuple[Member, Sink]], *, last: int | None = None
    ) -> None:
        """Begin a step.

        Args:
            step: 0 for the prefill, n for the nth decode step.
            members: the sequences that are watched, each with who takes its tensors.
            last: after how many stages and layers nothing more is wanted; None: the step runs
                through.
        """
        self._step, self._left = step, last
        self._takers = tuple(_Taker.of(*each) for each in members)

    def show(
        self, layer: int | None, stage: str, batch: torch.Tensor, channels: Channels | None = None
    ) -> None:
        """Take the tensor of one site, or a part of it; it may be written to afterwards.

        Args:
            layer: of the site.
            stage: of the site.
            batch: the tensor of all sequences, the batch's axis first.
            channels: which of the tensor's channels these are; None: all.

        Raises:
            CaptureError: when the parts do not come one after the other, each once.
            Stopped: when it was the last one that is wanted.
        """
        site = Site(self._step, layer, stage)
        if channels is not None:
            self._must_follow(site, channels)
        for taker in self._takers:
            if taker.sketch_of is None or not self._sketched(site, batch, taker, channels):
                self._copied(site, batch, taker, channels)
        if self._left is not None and (channels is None or channels.is_last):
            self._left -= 1
            if self._left == 0:
                raise Stopped

    def _must_follow(self, site: Site, channels: Channels) -> None:
        """Refuse what would leave channels out: nobody has written anything there."""
        if channels.first != self._ends.get(site, 0):
            msg = f"{site}: channels from {channels.first} came out of turn"
            raise CaptureError(msg, expected=f"those from {self._ends.get(site, 0)}")
        self._ends[site] = 0 if channels.is_last else channels.end

    def _copied(
        self, site: Site, batch: torch.Tensor, taker: _Taker, channels: Channels | None
    ) -> None:
        seen = batch if self.waits else as_numpy(batch)
        part, positions = taker.member.own(site.stage, seen)
        if channels is not None:
            found = self._joined(site, part, taker, channels)
            if not channels.is_last:
                return
        elif self.waits:
            found = _copy(part)
        else:
            found = part if taker.borrows else self.arena.copy(part)
        if self.waits:
            self._waiting.append(_Waiting(found, site, positions, taker.sink))
        else:
            taker.sink(site, _captured(site, found, positions))

    def _joined(self, site: Site, part: Any, taker: _Taker, channels: Channels) -> Any:
        """Put a part where the tensor of a sequence is kept, and return the latter."""
        key = (site, taker.member.index)
        if channels.first == 0:
            self._parts[key] = self._empty(site, part, taker, channels.width)
        whole = self._parts.pop(key) if channels.is_last else self._parts[key]
        whole[..., channels.first : channels.end] = part
        return whole

    def _empty(self, site: Site, part: Any, taker: _Taker, width: int) -> Any:
        """Return memory for the tensor of which a part has come."""
        shape = (*part.shape[:-1], width)
        if self.waits:
            return part.new_empty(shape)
        if not taker.borrows:
            return self.arena.empty(shape, part.dtype)
        key = (site.stage, taker.member.index, shape, part.dtype)
        if key not in self._lent:
            self._lent[key] = np.empty(shape, part.dtype)
        return self._lent[key]

    def _sketched(
        self, site: Site, batch: torch.Tensor, taker: _Taker, channels: Channels | None
    ) -> bool:
        """Hand out a sketch, and tell whether there is one."""
        part, positions = taker.member.own(site.stage, batch)
        found = taker.sketch_of(site.stage, part, channels) if taker.sketch_of else None
        if found is None:
            return False
        tensor, sketch = found
        if channels is not None:
            key = (site, taker.member.index)
            if channels.first:
                tensor += self._parts.pop(key)
            if not channels.is_last:
                self._parts[key] = tensor
                return True
        self._waiting.append(_Waiting(tensor, site, positions, taker.sink, sketch))
        return True

    def finish(self) -> None:
        """Bring to the host what has waited, and hand it out in the order it came."""
        arrays = to_host([each.tensor for each in self._waiting])
        for each, array in zip(self._waiting, arrays, strict=True):
            each.sink(each.site, _captured(each.site, array, each.positions, each.sketch))
        self._waiting.clear()


def _captured(
    site: Site, array: Array, positions: tuple[int, ...], sketch: Sketch | None = None
) -> CapturedTensor:
    return CapturedTensor(
        array=array,
        dims=DIMS if sketch else STAGES[site.stage].dims,
        positions=positions,
        mask=MASKS.get(site.stage, "none"),
        sketch=sketch,
    )


def borrows(sink: Sink) -> bool:
    """Tell whether a sink is done with a tensor when it returns, so that none need be copied."""
    return bool(getattr(sink, "borrows", False))


def wants_sketches(sink: Sink) -> bool:
    """Tell whether a sink keeps sketches alone."""
    return bool(getattr(sink, "sketches", False))


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy in C order on the same device.

    It is a copy because a residual add may write into the tensor later in the pass.
    """
    import torch

    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def to_host(tensors: list[torch.Tensor]) -> list[Array]:
    """Copy tensors of one device to the host, waiting once: into one buffer, which they share.

    The buffer is pinned where the device is an accelerator, and the copies run on a stream of
    their own, so that the device goes on meanwhile.
    """
    import torch

    if not tensors:
        return []
    starts = [0]
    for each in tensors:
        starts.append(starts[-1] + -(-each.nbytes // ALIGNMENT) * ALIGNMENT)
    is_cuda = tensors[0].is_cuda
    buffer = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=is_cuda)
    places = [
        buffer[start : start + each.nbytes].view(each.dtype).view(each.shape)
        for start, each in zip(starts[:-1], tensors, strict=True)
    ]
    if is_cuda:
        _copy_aside(tensors, places)
    else:
        for place, each in zip(places, tensors, strict=True):
            place.copy_(each)
    return [as_numpy(each) for each in places]


def _copy_aside(tensors: list[torch.Tensor], places: list[torch.Tensor]) -> None:
    import torch

    aside = torch.cuda.Stream(tensors[0].device)
    aside.wait_stream(torch.cuda.current_stream(tensors[0].device))
    with torch.cuda.stream(aside):
        for place, each in zip(places, tensors, strict=True):
            place.copy_(each, non_blocking=True)
            each.record_stream(aside)
    aside.synchronize()


def off_device(tensor: torch.Tensor) -> Array:
    """Return a tensor that nothing writes to any more as an array of the host, in C order."""
    return as_numpy(tensor.contiguous().cpu())
