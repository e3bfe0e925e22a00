"""Every operation of a subject done again, by known-good code, on the subject's own inputs.

What differs then is the operation's own error; whatever came with its inputs is in both. How much
of it is rounding is measured at the same place and on the same inputs: the known-good code computes
each operation twice, once wider than the subject's precision and once at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pytest_falsify.compare.align import TOKENS
from pytest_falsify.compare.comparison import Comparison, SiteComparison, compare_tensors
from pytest_falsify.compare.noise import judge_noise
from pytest_falsify.compare.pools import pools
from pytest_falsify.errors import AlignmentError, CaptureError
from pytest_falsify.stages.context import Context
from pytest_falsify.stages.graph import StageGraph
from pytest_falsify.stages.vocabulary import STAGES, Site

if TYPE_CHECKING:
    import torch

    from pytest_falsify.captures.capture import Capture, CapturedTensor
    from pytest_falsify.compare.noise import SiteNoise

WIDER = {
    "bfloat16": "float32",
    "float16": "float32",
    "float32": "float64",
    "float64": "float64",
}
"""The dtype in which an operation of a dtype is evaluated."""
FREQUENCIES = "inv_freq"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """Known-good code with the weights that the subject declares, at two precisions.

    Attributes:
        wide: what the subject's operations are held against.
        narrow: the same at the subject's precision: its error is the floor.
    """

    wide: StageGraph
    narrow: StageGraph

    @classmethod
    def of(cls, model: Any, dtype: str) -> Evaluator:
        """Return the evaluator of a loaded model.

        The narrow copy's rotary frequencies are disturbed by two roundings of float32, one of the
        frequency and one of the angle: engines compute angles in more than one way, and far from
        the first token that is what differs.

        Args:
            model: a causal language model of transformers that has the weights the subject
                declares: de-quantised from its own file, or rounded as it says.
            dtype: the precision at which the subject computes, one of ``WIDER``.

        Raises:
            CaptureError: when the dtype or the model's family is not known.
        """
        if dtype not in WIDER:
            msg = f"nothing is known about computing in {dtype}"
            raise CaptureError(msg, expected=f"one of {', '.join(WIDER)}")
        narrow = _cast(model, dtype)
        wide = _cast(narrow, WIDER[dtype])
        _compute_experts_plainly(wide)
        _disturb_frequencies(narrow)
        return cls(wide=StageGraph.of(wide), narrow=StageGraph.of(narrow))


class Again(NamedTuple):
    """One operation done again, at one step.

    Attributes:
        own: how far the subject's result is from what the operation should have made.
        allowed: how far known-good code at the subject's precision is from it.
        expected: what the operation should have made of the subject's inputs.
        sources: the captured sites that it was computed of.
        through: the sites that were not captured and stand between; a verdict is about all of them.
    """

    own: SiteComparison
    allowed: SiteComparison
    expected: CapturedTensor
    sources: tuple[Site, ...]
    through: tuple[Site, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolated:
    """One operation of the subject, held against the same operation done again.

    Attributes:
        site: where to look: of several decode steps, at that one.
        own: the subject's own error, judged against its floor.
        steps: the operation done again, at each step that was judged together.
    """

    site: Site
    own: SiteNoise
    steps: Mapping[Site, Again]

    @property
    def there(self) -> Again:
        """The operation done again at the step to look at."""
        return self.steps[self.site]


def isolated(
    evaluator: Evaluator,
    subject: Capture,
    *,
    ratios: Mapping[str, Any] | None = None,
) -> Iterator[Isolated]:
    """Yield every captured operation of a subject, in causal order.

    The decode steps of one stage are one operation: they are judged together, at the first step
    that is beyond the floor or else at the worst one, as ``judge_noise`` does.

    Args:
        evaluator: with the weights that the subject declares.
        subject: what it showed, in any subset of the stages.
        ratios: ``ratio`` and ``row_ratio`` of ``judge_noise``, where they are not the usual ones.

    Raises:
        AlignmentError: when a tensor does not have the axes or the size of its stage.
    """
    doing = _Doing.of(evaluator, subject)
    done = {site: doing.again(site) for site in judged_sites(evaluator, subject)}
    own = comparison_of(each.own for each in done.values())
    allowed = comparison_of(each.allowed for each in done.values())
    together = {each.site: pool.steps for pool in pools(own.sites) for each in pool.steps}
    for noise in judge_noise(own, allowed, **(ratios or {})):
        steps = {each.site: done[each.site] for each in together[noise.site]}
        yield Isolated(site=noise.site, own=noise, steps=steps)


def judged_sites(evaluator: Evaluator, subject: Capture) -> tuple[Site, ...]:
    """Return the captured sites whose operation can be done again, in causal order.

    The others are not the model's, or belong to a step of which no tokens are known.
    """
    steps = range(len(context_of(subject).steps))
    found = (each for each in subject.tensors if evaluator.wide.has(each) and each.step in steps)
    return tuple(sorted(found, key=lambda each: each.causal_key))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Doing:
    """Does a subject's operations again."""

    evaluator: Evaluator
    subject: Capture
    context: Context
    wide: Subject
    narrow: Subject

    @classmethod
    def of(cls, evaluator: Evaluator, subject: Capture) -> _Doing:
        return cls(
            evaluator=evaluator,
            subject=subject,
            context=context_of(subject),
            wide=Subject(subject, evaluator.wide),
            narrow=Subject(subject, evaluator.narrow),
        )

    def again(self, site: Site) -> Again:
        found = self.evaluator.wide.replay(site, self.wide, context=self.context)
        usual = self.evaluator.narrow.replay(site, self.narrow, context=self.context)
        assert found is not None  # nothing limits how far a replay may reach back
        assert usual is not None
        tensor = in_stage_order(site, self.subject.tensors[site])
        fed = self.context.positions(site.step)
        expected = like(tensor, found.value, fed)
        own, allowed = errors(site, tensor, expected, like(tensor, usual.value, fed))
        return Again(own, allowed, expected, found.sources, found.through)


def comparison_of(sites: Iterable[SiteComparison]) -> Comparison:
    """Return the statistics of some sites as those of a whole capture."""
    return Comparison(sites=tuple(sites), missing=(), subject="", oracle="")


def errors(
    site: Site, subject: CapturedTensor, expected: CapturedTensor, usual: CapturedTensor
) -> tuple[SiteComparison, SiteComparison]:
    """Return the subject's own error and the error that known-good code makes there.

    Args:
        site: where it stands.
        subject: what the subject shows.
        expected: what wide code makes of its inputs.
        usual: what code at the subject's precision makes of them.
    """
    return (
        compare_tensors(subject, expected, site=site),
        compare_tensors(usual, expected, site=site),
    )


def context_of(capture: Capture) -> Context:
    """Return what the steps of a capture were fed.

    Raises:
        CaptureError: when the capture does not say it.
    """
    if not capture.inputs.tokens:
        msg = "the subject does not say which tokens it was fed, and no operation can be done again"
        raise CaptureError(
            msg,
            expected="a bundle, or an oracle that was fed the same tokens and says which",
        )
    decoded = capture.inputs.forced or capture.continuation
    return Context.of(capture.inputs.tokens, decoded)


def in_stage_order(site: Site, tensor: CapturedTensor) -> CapturedTensor:
    """Return a tensor with its axes in the order of its stage.

    Raises:
        AlignmentError: when it has other axes.
    """
    names, wanted = tensor.dims.split(), STAGES[site.stage].dims.split()
    if sorted(names) != sorted(wanted) or tensor.array.ndim != len(names):
        msg = f"{site}: no operation has a result like {tensor.describe()}"
        raise AlignmentError(msg, expected=f"the axes `{STAGES[site.stage].dims}`")
    array = tensor.array.transpose([names.index(each) for each in wanted])
    return replace(tensor, array=array, dims=" ".join(wanted))


def like(tensor: CapturedTensor, value: torch.Tensor, fed: range) -> CapturedTensor:
    """Return a value as a captured tensor, with the rows of another that may have fewer tokens."""
    array = value.detach().cpu()
    array = array if str(array.dtype) != "torch.bfloat16" else array.float()
    values = array.numpy()
    if TOKENS in tensor.dims.split():
        axis = tensor.dims.split().index(TOKENS)
        places = shown_rows(tensor, values.shape[axis], fed)
        if places != list(range(values.shape[axis])):
            values = values.take(places, axis=axis)
    return replace(tensor, array=values)


def shown_rows(tensor: CapturedTensor, tokens: int, fed: range) -> list[int]:
    """Return which tokens of a value a captured tensor shows: it may lack some of them.

    Args:
        tensor: captured.
        tokens: how many the value has: those of its step, or of all steps in a cache.
        fed: the positions of the step's tokens.
    """
    first = 0 if tokens == fed.stop else fed.start
    return [each - first for each in tensor.positions]


class Subject(Mapping[Site, Any]):
    """A capture's tensors as a graph takes them, converted when they are asked for.

    Tensors that lack some of the step's tokens are left out: nothing can be computed of them.
    """

    def __init__(self, capture: Capture, graph: StageGraph) -> None:
        self.context = context_of(capture)
        self._graph = graph
        self._whole = {
            site: tensor
            for site, tensor in capture.tensors.items()
            if graph.has(site)
            and site.step < len(self.context.steps)
            and _is_whole(tensor, self.context.positions(site.step))
        }

    def __getitem__(self, site: Site) -> torch.Tensor:
        return to_torch(in_stage_order(site, self._whole[site]).array, self._graph.model)

    def __iter__(self) -> Iterator[Site]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)

    def __contains__(self, site: object) -> bool:
        return site in self._whole


def _is_whole(tensor: CapturedTensor, fed: range) -> bool:
    return set(fed) <= set(tensor.positions)


def to_torch(array: np.ndarray[Any, Any], model: Any) -> torch.Tensor:
    """Return an array in a model's dtype and on its device; ids stay whole numbers."""
    import torch

    if array.dtype.kind in "iu":
        return torch.from_numpy(array.astype(np.int64)).to(model.device)
    values = np.ascontiguousarray(array, dtype=np.float64 if array.itemsize > 4 else np.float32)  # noqa: PLR2004
    if not values.flags.writeable:
        values = values.copy()
    return torch.from_numpy(values).to(device=model.device, dtype=model.dtype)


def _cast(model: Any, dtype: str) -> Any:
    """Return a copy of a model in another dtype; buffers keep theirs, as they do when loading."""
    import torch

    copy = deepcopy(model).eval()
    with torch.no_grad():
        for parameter in copy.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(getattr(torch, dtype))
    return copy


def _compute_experts_plainly(model: Any) -> None:
    """Let experts be computed one by one: grouped products know no float64 (torch 2.13)."""
    if any(model.get_experts_implementation().values()):
        model.set_experts_implementation("eager")


def _disturb_frequencies(model: Any) -> None:
    """Change every rotary frequency by two roundings of float32, up and down in turn."""
    import torch

    two_roundings = torch.finfo(torch.float32).eps
    for name, buffer in model.named_buffers():
        if name.endswith(FREQUENCIES):
            signs = 1 - 2 * (torch.arange(buffer.numel(), device=buffer.device) % 2)
            buffer.mul_(1 + two_roundings * signs.view(buffer.shape))
