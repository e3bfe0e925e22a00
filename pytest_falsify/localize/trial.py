"""One guilty operation on trial: what a hypothesis about it is given, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_falsify.compare.align import TOKENS
from pytest_falsify.localize.evaluation import shown_rows
from pytest_falsify.stages.operations import Place
from pytest_falsify.stages.vocabulary import STAGES

if TYPE_CHECKING:
    import torch

    from pytest_falsify.captures.capture import CapturedTensor
    from pytest_falsify.stages.context import Context
    from pytest_falsify.stages.graph import StageGraph
    from pytest_falsify.stages.vocabulary import Site

Compute = Callable[["Trial"], "torch.Tensor"]
Variants = Iterator[tuple[str, Compute]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """An operation of the subject with its inputs and its result, as one graph sees them.

    Attributes:
        graph: known-good code; hypotheses run on a wide one and on a narrow one.
        inputs: the immediate inputs of the site, the subject's own.
        tensor: the subject's result as it was captured, in the dims of the stage.
        observed: its values; it may lack some of the tokens.
        context: what the run was fed.
    """

    graph: StageGraph
    site: Site
    inputs: Mapping[Site, torch.Tensor]
    tensor: CapturedTensor
    observed: torch.Tensor
    context: Context

    @property
    def expected(self) -> torch.Tensor:
        """What the right operation makes of the inputs."""
        return self.evaluate()

    @property
    def place(self) -> Place:
        """Where the operation stands in the model."""
        return Place(
            model=self.graph.model, family=self.graph.family, site=self.site, context=self.context
        )

    @property
    def modules(self) -> tuple[Any, ...]:
        """The modules that hold the operation's weights; none for an operation without any."""
        names: tuple[str, ...] = ()
        tap = self.graph.family.tap(self.site)
        if self.site.stage in {"qkv_matmul", "qkv_bias"}:
            names = self.graph.family.projections
        elif tap is not None and not tap.is_input:
            names = (tap.module,)
        found = (self.place.module(each) for each in names)
        return tuple(each for each in found if getattr(each, "weight", None) is not None)

    def shown(self, value: Any) -> Any:
        """Return what the subject shows of a value in the dims of the stage: some of its tokens."""
        dims = STAGES[self.site.stage].dims.split()
        if TOKENS not in dims:
            return value
        axis = dims.index(TOKENS)
        fed = self.context.positions(self.site.step)
        return value[*(slice(None),) * axis, shown_rows(self.tensor, value.shape[axis], fed)]

    def evaluate(self, inputs: Mapping[Site, torch.Tensor] | None = None) -> torch.Tensor:
        """Return what the right operation makes of some inputs: its own, if none are given."""
        given = self.inputs if inputs is None else inputs
        return self.graph.evaluate(self.site, given, context=self.context)

    def elsewhere(self, site: Site) -> torch.Tensor:
        """Return what the operation of another site makes of this one's inputs, in order."""
        theirs = self.graph.inputs(site)
        given = dict(zip(theirs, self.ordered, strict=True))
        return self.graph.evaluate(site, given, context=self.context)

    @property
    def ordered(self) -> tuple[torch.Tensor, ...]:
        """The inputs in the order in which the operation takes them."""
        return tuple(self.inputs[each] for each in self.graph.inputs(self.site))

    def with_inputs(self, *values: torch.Tensor) -> Trial:
        """Return this trial with other values for its inputs, in order."""
        names = self.graph.inputs(self.site)
        return replace(self, inputs=dict(zip(names, values, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """A known fault.

    Attributes:
        name: what a person would call it.
        stages: where it can happen; empty: anywhere.
        variants: yields ways in which it happens, each with what the faulty operation computes.
        fitted: how many of its numbers are fitted to the subject. The more, the more it explains
            that it should not: it is believed only where nothing with fewer explains.
    """

    name: str
    stages: frozenset[str]
    variants: Callable[[Trial], Variants]
    fitted: int = 0

    def applies_to(self, site: Site) -> bool:
        """Tell whether the fault can happen at a site."""
        return not self.stages or site.stage in self.stages


@contextmanager
def altered(owner: Any, **attributes: Any) -> Iterator[None]:
    """Give a module other attributes for a while."""
    before = {name: getattr(owner, name) for name in attributes}
    methods = {name for name in attributes if callable(before[name]) and name not in vars(owner)}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            if name in methods:
                delattr(owner, name)  # the class has it
            else:
                setattr(owner, name, value)


@contextmanager
def with_weights(
    modules: tuple[Any, ...], change: Callable[[torch.Tensor], torch.Tensor], name: str = "weight"
) -> Iterator[None]:
    """Change a parameter of some modules for a while."""
    before = [getattr(each, name).data for each in modules]
    try:
        for module, value in zip(modules, before, strict=True):
            getattr(module, name).data = change(value)
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            getattr(module, name).data = value
