"""Looks at one forward pass of a torch model. Nothing here returns a value, so nothing changes."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.engines.attention import STAGES_INSIDE, watched
from pytest_falsify.stages.vocabulary import STAGES, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import numpy as np
    import torch

    from pytest_falsify.engines.base import Sink
    from pytest_falsify.stages.family import Family, Tap

MASKS = {"attn_softmax": "zero"}


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
    def watching(
        self, model: torch.nn.Module, step: int, positions: tuple[int, ...], sink: Sink
    ) -> Iterator[None]:
        """Hand every site of one step to the sink while the model runs.

        Args:
            model: the model.
            step: 0 for the prefill, n for the nth decode step.
            positions: of the tokens that are fed.
            sink: what receives copies of the tensors.
        """
        seen = _Step(step, positions, sink)
        with ExitStack() as stack:
            for tap, sites in self.taps.items():
                stack.callback(_tap(model, tap, sites, seen).remove)
            for layer, stages in self.joined.items():
                names = [each.format(i=layer) for each in self.family.projections]
                for handle in _joined(model, names, layer, stages, seen):
                    stack.callback(handle.remove)
            stack.enter_context(watched(model, self.inside, seen.put))
            yield


@dataclass(frozen=True, slots=True)
class _Step:
    step: int
    positions: tuple[int, ...]
    sink: Sink

    def put(self, layer: int | None, stage: str, tensor: torch.Tensor) -> None:
        """Hand a copy of a tensor of one sequence to the sink."""
        array = to_numpy(tensor)
        # A cache holds the tokens of all steps, every other tensor those of this one.
        positions = tuple(range(len(array))) if stage.endswith("_cache") else self.positions
        captured = CapturedTensor(
            array=array,
            dims=STAGES[stage].dims,
            positions=positions,
            mask=MASKS.get(stage, "none"),
        )
        self.sink(Site(self.step, layer, stage), captured)


def _tap(model: torch.nn.Module, tap: Tap, sites: Sequence[Site], seen: _Step) -> Any:
    def put(tensor: torch.Tensor) -> None:
        for site in sites:
            seen.put(site.layer, site.stage, tensor[0])

    def on_input(_module: Any, arguments: tuple[Any, ...]) -> None:
        put(arguments[0])

    def on_output(_module: Any, _arguments: Any, output: Any) -> None:
        put(output[0] if isinstance(output, tuple) else output)

    module = model.get_submodule(tap.module)
    if tap.is_input:
        return module.register_forward_pre_hook(on_input)
    return module.register_forward_hook(on_output)


def _joined(
    model: torch.nn.Module, names: Sequence[str], layer: int, stages: Sequence[str], seen: _Step
) -> Iterator[Any]:
    """Collect the outputs of the projections, in the order q, k, v; they run in that order."""
    parts: dict[str, list[torch.Tensor]] = {stage: [] for stage in stages}

    def on_output(module: Any, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
        import torch

        for stage, found in parts.items():
            found.append(_JOINABLE[stage](module, arguments[0], output)[0])
            if len(found) == len(names):
                seen.put(layer, stage, torch.cat(found, dim=-1))

    for name in names:
        yield model.get_submodule(name).register_forward_hook(on_output)


def _without_bias(module: Any, given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Multiply again without the bias, which the linear module adds in the same step."""
    import torch

    if module.bias is None:
        return output
    return torch.nn.functional.linear(given, module.weight)


def _as_it_is(_module: Any, _given: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    return output


_JOINABLE: dict[str, Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "qkv_matmul": _without_bias,
    "qkv_bias": _as_it_is,
}


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Copy a tensor to the host in its own dtype; bfloat16 becomes ml_dtypes' bfloat16.

    It is a copy because a residual add may write into the tensor later in the pass.
    """
    import ml_dtypes
    import torch

    host = tensor.detach().to("cpu", copy=True).contiguous()
    if host.dtype is torch.bfloat16:
        bits: np.ndarray[Any, Any] = host.view(torch.uint16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: np.ndarray[Any, Any] = host.numpy()
    return array
