"""Looks at one forward pass of a torch model. Nothing here returns a value, so nothing changes."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_falsify.engines.attention import STAGES_INSIDE, watched
from pytest_falsify.stages.operations import without_bias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import torch

    from pytest_falsify.stages.family import Family, Tap
    from pytest_falsify.stages.vocabulary import Site

    Show = Callable[[int | None, str, torch.Tensor], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Where the sites of a plan are observed in a family's models.

    Attributes:
        taps: the sites that one module shows.
        joined: by layer, the stages that are made of the projections' outputs side by side.
        inside: by layer, the stages inside attention.
    """

    family: Family
    taps: Mapping[Tap, tuple[Site, ...]]
    joined: Mapping[int, tuple[str, ...]]
    inside: Mapping[int, tuple[str, ...]]

    @classmethod
    def of(cls, family: Family, sites: Iterable[Site]) -> Watch:
        """Return where some sites, all of which the family can show, are observed."""
        taps: dict[Tap, tuple[Site, ...]] = {}
        joined: dict[int, tuple[str, ...]] = {}
        inside: dict[int, tuple[str, ...]] = {}
        for site in sites:
            tap = family.tap(site)
            if tap is not None:
                taps[tap] = (*taps.get(tap, ()), site)
            elif site.layer is not None:
                group = inside if site.stage in STAGES_INSIDE else joined
                group[site.layer] = (*group.get(site.layer, ()), site.stage)
        return cls(family=family, taps=taps, joined=joined, inside=inside)

    @contextmanager
    def watching(self, model: torch.nn.Module, show: Show) -> Iterator[None]:
        """Show every site of one step while the model runs.

        Args:
            model: the model.
            show: takes the layer, the stage and the tensor of the whole batch, the batch's axis
                first. The model may write into the tensor afterwards.
        """
        batch, joined = _BatchSize(), _SideBySide()
        modules = dict(model.named_modules(remove_duplicate=False))
        with ExitStack() as stack:
            stack.callback(model.register_forward_pre_hook(batch.note, with_kwargs=True).remove)
            for tap, sites in self.taps.items():
                stack.callback(_tap(modules[tap.module], tap, sites, batch, show).remove)
            for layer, stages in self.joined.items():
                names = [each.format(i=layer) for each in self.family.projections]
                projections = [modules[name] for name in names]
                for handle in _joined(projections, layer, stages, joined, show):
                    stack.callback(handle.remove)
            stack.enter_context(watched(model, self.inside, show))
            yield


@dataclass(slots=True)
class _BatchSize:
    """How many sequences the model is given: what a module's own arguments do not always say."""

    value: int = 1

    def note(self, _model: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        """Take it from what the model is called with."""
        tokens = named["input_ids"] if "input_ids" in named else arguments[0]
        self.value = len(tokens)


def _tap(
    module: torch.nn.Module, tap: Tap, sites: Sequence[Site], batch: _BatchSize, show: Show
) -> Any:
    def put(shown: Any) -> None:
        for site in sites:
            show(site.layer, site.stage, tap.pick(shown, batch.value))

    def on_input(_module: Any, arguments: tuple[Any, ...]) -> None:
        put(arguments)

    def on_output(_module: Any, _arguments: Any, output: Any) -> None:
        put(output)

    if tap.is_input:
        return module.register_forward_pre_hook(on_input)
    return module.register_forward_hook(on_output)


@dataclass(slots=True)
class _SideBySide:
    """Memory in which outputs of projections are put side by side; layers of one shape share it."""

    _wholes: dict[Any, torch.Tensor] = field(default_factory=dict)

    def whole(self, stage: str, part: torch.Tensor, width: int) -> torch.Tensor:
        """Return where a part of so many channels in all is put."""
        import torch

        key = (stage, part.shape[:-1], width, part.dtype, part.device)
        if key not in self._wholes:
            shape = (*part.shape[:-1], width)
            self._wholes[key] = torch.empty(shape, dtype=part.dtype, device=part.device)
        return self._wholes[key]


def _joined(
    projections: Sequence[Any],
    layer: int,
    stages: Sequence[str],
    joined: _SideBySide,
    show: Show,
) -> Iterator[Any]:
    """Put the outputs of the projections side by side: q, k, v, which is the order they run in.

    Each is put there as it comes, while the processor's cache still has it.
    """
    width = sum(each.out_features for each in projections) if len(projections) > 1 else 0
    filled = dict.fromkeys(stages, 0)

    def on_output(module: Any, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
        for stage, first in filled.items():
            part = _JOINABLE[stage](module, arguments[0], output)
            if not width:
                show(layer, stage, part)
                continue
            whole, end = joined.whole(stage, part, width), first + part.shape[-1]
            whole[..., first:end] = part
            filled[stage] = end % width
            if end == width:
                show(layer, stage, whole)

    for each in projections:
        yield each.register_forward_hook(on_output)


def _without_bias(module: Any, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Multiply again, where the module adds a bias in the same step."""
    return output if module.bias is None else without_bias(module, given)


def _as_it_is(_module: Any, _given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    return output


_JOINABLE: dict[str, Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "qkv_matmul": _without_bias,
    "qkv_bias": _as_it_is,
}
