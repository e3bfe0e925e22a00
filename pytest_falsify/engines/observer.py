"""Looks at one forward pass of a torch model. Nothing here returns a value, so nothing changes."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Protocol

from pytest_falsify.engines.attention import STAGES_INSIDE, watched
from pytest_falsify.engines.handout import Channels
from pytest_falsify.stages.operations import without_bias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import torch

    from pytest_falsify.stages.family import Family, Tap
    from pytest_falsify.stages.vocabulary import Site

    class Show(Protocol):
        """Takes what is observed."""

        def __call__(
            self,
            layer: int | None,
            stage: str,
            batch: torch.Tensor,
            channels: Channels | None = None,
            /,
        ) -> None:
            """Take a tensor of the whole batch, or those of its channels that have come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Where the sites of a plan are observed in a family's models.

    Attributes:
        taps: the sites that one module shows.
        projected: by layer, the stages that are the projections' outputs side by side.
        inside: by layer, the stages inside attention.
    """

    family: Family
    taps: Mapping[Tap, tuple[Site, ...]]
    projected: Mapping[int, tuple[str, ...]]
    inside: Mapping[int, tuple[str, ...]]

    @classmethod
    def of(cls, family: Family, sites: Iterable[Site]) -> Watch:
        """Return where some sites, all of which the family can show, are observed."""
        taps: dict[Tap, tuple[Site, ...]] = {}
        projected: dict[int, tuple[str, ...]] = {}
        inside: dict[int, tuple[str, ...]] = {}
        for site in sites:
            tap = family.tap(site)
            if tap is not None:
                taps[tap] = (*taps.get(tap, ()), site)
            elif site.layer is not None:
                group = inside if site.stage in STAGES_INSIDE else projected
                group[site.layer] = (*group.get(site.layer, ()), site.stage)
        return cls(family=family, taps=taps, projected=projected, inside=inside)

    @contextmanager
    def watching(self, model: torch.nn.Module, show: Show) -> Iterator[None]:
        """Show every site of one step while the model runs.

        Args:
            model: the model.
            show: takes the layer, the stage and the tensor of the whole batch, the batch's axis
                first, or some channels of it. The model may write into the tensor afterwards.
        """
        batch = _BatchSize()
        modules = dict(model.named_modules(remove_duplicate=False))
        with ExitStack() as stack:
            stack.callback(model.register_forward_pre_hook(batch.note, with_kwargs=True).remove)
            for tap, sites in self.taps.items():
                stack.callback(_tap(modules[tap.module], tap, sites, batch, show).remove)
            for layer, stages in self.projected.items():
                names = [each.format(i=layer) for each in self.family.projections]
                projections = [modules[name] for name in names]
                for handle in _projected(projections, layer, stages, show):
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


def _projected(
    projections: Sequence[Any], layer: int, stages: Sequence[str], show: Show
) -> Iterator[Any]:
    """Show the outputs of the projections as they come: q, k, v, which is the order they run in.

    So each is taken while the processor's cache still has it.
    """
    for each, channels in zip(projections, _channels(projections), strict=True):
        yield each.register_forward_hook(_on_projection(layer, stages, channels, show))


def _channels(projections: Sequence[Any]) -> list[Channels | None]:
    """Return which channels of the whole each projection puts out; None: one puts out all."""
    if len(projections) == 1:
        return [None]
    ends = list(accumulate(each.out_features for each in projections))
    return [Channels(first, end, ends[-1]) for first, end in pairwise((0, *ends))]


def _on_projection(
    layer: int, stages: Sequence[str], channels: Channels | None, show: Show
) -> Callable[..., None]:
    def on_output(module: Any, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
        for stage in stages:
            show(layer, stage, _PROJECTED[stage](module, arguments[0], output), channels)

    return on_output


def _without_bias(module: Any, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Multiply again, where the module adds a bias in the same step."""
    return output if module.bias is None else without_bias(module, given)


def _as_it_is(_module: Any, _given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    return output


_PROJECTED: dict[str, Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "qkv_matmul": _without_bias,
    "qkv_bias": _as_it_is,
}
