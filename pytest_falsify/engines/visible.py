"""What can be seen of a loaded model: which sites it has, and when each is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_falsify.engines.attention import ALWAYS, EAGER_ONLY, ON_REQUEST, STAGES_INSIDE
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.family import family_for
from pytest_falsify.stages.graph import StageGraph
from pytest_falsify.stages.modules import module_family
from pytest_falsify.stages.vocabulary import STAGES, in_order

if TYPE_CHECKING:
    from pytest_falsify.stages.family import Family
    from pytest_falsify.stages.vocabulary import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Visible:
    """The stages of one model under one kind of attention.

    Attributes:
        family: where they are observed; of a model of an unknown family, one of its modules.
        always: what ``all`` means: the stages that cost no arithmetic.
        on_request: the stages that are shown when they are asked for by name.
        places: the layer and the stage of everything that the model has.
        is_known: whether the model's family is known.
    """

    family: Family
    always: tuple[str, ...]
    on_request: tuple[str, ...] = ()
    places: frozenset[tuple[int | None, str]] = field(repr=False)
    is_known: bool = True

    @classmethod
    def of(cls, model: Any, attention: str) -> Visible:
        """Return what can be seen of a model.

        Args:
            model: a causal language model of transformers.
            attention: the implementation that it runs with.

        Raises:
            CaptureError: when the model has a setting that its family does not describe.
        """
        if family_for(model.config) is None:
            return cls._modules(module_family(model))
        graph = StageGraph.of(model)
        places = frozenset((site.layer, site.stage) for site in graph.sites())
        has = {stage for _, stage in places}
        free = {*graph.family.taps, *ALWAYS, "qkv_bias"}
        asked = {"qkv_matmul", *ON_REQUEST, *(EAGER_ONLY if attention == "eager" else ())}
        return cls(
            family=graph.family,
            always=in_order(has & free),
            on_request=in_order(has & asked),
            places=places,
        )

    @classmethod
    def _modules(cls, family: Family) -> Visible:
        return cls(
            family=family,
            always=in_order(family.taps),
            places=frozenset((None, stage) for stage in family.taps),
            is_known=False,
        )

    @property
    def unmapped(self) -> tuple[str, ...]:
        """The canonical stages that the model does not have, or that nothing is known about."""
        has = {stage for _, stage in self.places}
        return tuple(name for name in STAGES if name not in has)

    def has(self, site: Site) -> bool:
        """Tell whether the model has a site at all: its layers may be of different kinds."""
        return (site.layer, site.stage) in self.places

    def must_show(self, stage: str, attention: str) -> None:
        """Refuse a stage that cannot be shown.

        Raises:
            CaptureError: when the model does not have it, or the attention does not show it.
        """
        shown = in_order((*self.always, *self.on_request))
        if stage in shown:
            return
        is_hidden = stage in EAGER_ONLY and self.is_known
        by = f"attention `{attention}`" if stage in STAGES_INSIDE else "this model"
        msg = f"stage `{stage}` is not shown by {by}"
        remedy = "capture with `attention: eager`" if is_hidden else None
        raise CaptureError(msg, expected=f"one of {', '.join(shown)}", remedy=remedy)
