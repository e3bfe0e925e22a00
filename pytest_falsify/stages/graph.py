"""The stage graph of a loaded model: which sites it has, what each is made of, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.adapter import (
    LAST_LAYER,
    LAYER_INPUT,
    PAST_KEYS,
    PAST_VALUES,
    QKV,
)
from pytest_falsify.stages.context import Context
from pytest_falsify.stages.family import family_for
from pytest_falsify.stages.operations import Place
from pytest_falsify.stages.replay import Replay, route
from pytest_falsify.stages.threads import computing_with
from pytest_falsify.stages.vocabulary import STAGES, Scope, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch

    from pytest_falsify.stages.adapter import Family, Way

__all__ = ["Context", "Replay", "StageGraph"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageGraph:
    """The canonical sites of one loaded model, each with what it is made of.

    Attributes:
        model: a causal language model of transformers; its weights and its functions are the
            ones that stages are evaluated with.
        family: where its stages are.
        threads: how many threads of the CPU stages are evaluated with. Sums come out in other
            bits with another number; it has to be the captured run's.
    """

    model: Any
    family: Family
    threads: int = 1
    _modules: frozenset[str] = field(repr=False)

    @classmethod
    def of(cls, model: Any, *, threads: int = 1) -> StageGraph:
        """Return the graph of a loaded model.

        Raises:
            CaptureError: when no family is known for the model's type, or the model has a setting
                that its family does not describe.
        """
        family = family_for(model.config)
        if family is None:
            msg = f"model type `{model.config.model_type}` has no stage map"
            raise CaptureError(
                msg,
                expected="a family of pytest_falsify/stages/families/, to evaluate its stages",
                remedy="`pytest-falsify stages` lists what can be captured without one",
            )
        modules = frozenset(name for name, _ in model.named_modules())
        return cls(model=model, family=family, threads=threads, _modules=modules)

    @property
    def layer_count(self) -> int:
        """The number of decoder layers."""
        return int(self.model.config.num_hidden_layers)

    def sites(self, step: int = 0) -> tuple[Site, ...]:
        """Return every site that this model has at a step, in causal order.

        A model whose projections have no bias has ``qkv_matmul`` and no ``qkv_bias``.
        """
        layers = range(self.layer_count)
        found = [
            Site(step, layer, name)
            for name in self.family.ways
            for layer in (layers if STAGES[name].scope is Scope.LAYER else (None,))
        ]
        return tuple(sorted(filter(self.has, found), key=lambda site: site.causal_key))

    def has(self, site: Site) -> bool:
        """Tell whether this model has a site: its module, its bias."""
        if site.step < 0:  # the transfer between prefill and decode is no part of the model
            return False
        if site.stage == "qkv_bias":
            first = self.family.projections[0].format(i=site.layer)
            return first in self._modules and self.model.get_submodule(first).bias is not None
        tap = self.family.tap(site)
        shown_by = self.family.attention.format(i=site.layer) if tap is None else tap.module
        return site.stage in self.family.ways and shown_by in self._modules

    def inputs(self, site: Site) -> tuple[Site, ...]:
        """Return the sites that a site is immediately made of; none for the embedding.

        Raises:
            CaptureError: when the model has no such site.
        """
        return self._ways(site)[0][1]

    def definition(self, site: Site) -> tuple[str, ...]:
        """Return what a site is immediately made of, in words that are the same in every layer.

        Raises:
            CaptureError: when the model has no such site.
        """
        words = self._ways(site)[0][0].inputs
        return tuple(_qkv(self, site).stage if word == QKV else word for word in words)

    def evaluate(
        self, site: Site, inputs: Mapping[Site, torch.Tensor], *, context: Context
    ) -> torch.Tensor:
        """Compute one stage of its immediate inputs, with the model's own code and dtype.

        Args:
            site: which.
            inputs: what it is made of, at least ``inputs(site)``, each in the dims of its stage,
                in the model's dtype and on its device.
            context: what the run was fed.

        Returns:
            The tensor in the dims of its stage.

        Raises:
            CaptureError: when the model has no such site, or an input is absent.
        """
        way, parents = self._ways(site)[0]
        absent = [str(each) for each in parents if each not in inputs]
        if absent:
            msg = f"{site} cannot be evaluated without {', '.join(absent)}"
            raise CaptureError(msg, remedy="replay it from what was captured")
        return self._compute(site, way, [inputs[each] for each in parents], context)

    def replay(
        self,
        site: Site,
        captured: Mapping[Site, torch.Tensor],
        *,
        context: Context,
        at_most: int | None = None,
    ) -> Replay | None:
        """Compute a stage of the nearest captured stages before it.

        An input that was not captured is computed of its own inputs, down to the tokens if need
        be. Where a stage can be computed around one that was not captured (attention in one go, a
        bias added while multiplying), the way that computes the fewest stages is taken.

        Args:
            site: which; its own captured value, if there is one, is not looked at.
            captured: what there is, in the dims of their stages, the model's dtype and its device.
            context: what the run was fed.
            at_most: how many stages that were not captured may be computed on the way.

        Returns:
            The value and how it was made, or None when ``at_most`` does not suffice.

        Raises:
            CaptureError: when the model has no such site.
        """
        found = route(site, captured, self._ways)
        through = [each for each in found.steps if each != site]
        if at_most is not None and len(through) > at_most:
            return None
        values = {each: captured[each] for each in found.sources}
        for each, (way, parents) in found.steps.items():
            values[each] = self._compute(each, way, [values[p] for p in parents], context)
        return Replay(
            value=values[site], sources=_in_order(found.sources), through=_in_order(through)
        )

    def _ways(self, site: Site) -> list[tuple[Way, tuple[Site, ...]]]:
        found = []
        for way in self.family.ways.get(site.stage, ()) if self.has(site) else ():
            parents = [self._named(name, site) for name in way.inputs]
            if all(each is None or self.has(each) for each in parents):
                found.append((way, tuple(each for each in parents if each is not None)))
        if not found:
            msg = f"the model has no site {site}"
            raise CaptureError(msg, expected=f"a site of its {self.layer_count} layers")
        return found

    def _named(self, name: str, site: Site) -> Site | None:
        """Return the site that a way's input names, or None when there is nothing to read."""
        relation = _RELATIONS.get(name)
        return relation(self, site) if relation else Site(site.step, site.layer, name)

    def _compute(
        self, site: Site, way: Way, values: list[torch.Tensor], context: Context
    ) -> torch.Tensor:
        import torch

        place = Place(model=self.model, family=self.family, site=site, context=context)
        with computing_with(self.threads), torch.inference_mode():
            found: torch.Tensor = way.compute(place, *values)
            return found


def _in_order(sites: Iterable[Site]) -> tuple[Site, ...]:
    return tuple(sorted(sites, key=lambda site: site.causal_key))


def _layer_input(_graph: StageGraph, site: Site) -> Site:
    if site.layer:
        return Site(site.step, site.layer - 1, "post_ffn_residual")
    return Site(site.step, None, "embedding")


def _last_layer(graph: StageGraph, site: Site) -> Site:
    return Site(site.step, graph.layer_count - 1, "post_ffn_residual")


def _qkv(graph: StageGraph, site: Site) -> Site:
    biased = Site(site.step, site.layer, "qkv_bias")
    return biased if graph.has(biased) else Site(site.step, site.layer, "qkv_matmul")


def _past(stage: str) -> Callable[[StageGraph, Site], Site | None]:
    return lambda _graph, site: Site(site.step - 1, site.layer, stage) if site.step else None


_RELATIONS: Mapping[str, Callable[[StageGraph, Site], Site | None]] = {
    LAYER_INPUT: _layer_input,
    LAST_LAYER: _last_layer,
    QKV: _qkv,
    PAST_KEYS: _past("k_cache"),
    PAST_VALUES: _past("v_cache"),
}
