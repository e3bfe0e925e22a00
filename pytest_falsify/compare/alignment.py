"""Layout steps as people write them, in a contract's check or for `pytest-falsify compare`.

``align: {subject: [{stages: [q_post_rope], split: {axis: d, into: [h, d], outer: 4}}]}``: by side,
a list of steps in order, each for all stages or for some. They are part of what a falsifier means.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_falsify.compare.layout import (
    Join,
    Mask,
    Order,
    Part,
    Rename,
    Repeat,
    Reverse,
    Select,
    Split,
    Step,
    Unpad,
    apply_all,
    fused_qkv,
)
from pytest_falsify.errors import AlignmentError, ContractError
from pytest_falsify.stages.vocabulary import ALIASES, MODULE, STAGES, canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.stages.vocabulary import Site

SIDES = ("subject", "oracle", "control")
STAGES_KEY = "stages"

_AXIS = {"type": "string", "pattern": "^[a-z]$"}
_TWO_AXES = {"type": "array", "items": _AXIS, "minItems": 2, "maxItems": 2}
_DIMS = {"type": "string", "pattern": "^[a-z]( [a-z])*$"}
_COUNT = {"type": "integer", "minimum": 1}
_PLACE = {"type": "integer", "minimum": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    """One step as it is written.

    Attributes:
        make: from its parameters to the steps that it stands for.
        properties: JSON Schema of each parameter.
        optional: those that may be left out.
    """

    description: str
    make: Callable[..., tuple[Step, ...]]
    properties: Mapping[str, Any]
    optional: tuple[str, ...] = ()

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "description": self.description,
            "properties": dict(self.properties),
            "required": [name for name in self.properties if name not in self.optional],
            "additionalProperties": False,
        }


def _one(step: Callable[..., Step]) -> Callable[..., tuple[Step, ...]]:
    return lambda **given: (step(**given),)


WORDS: Mapping[str, _Word] = {
    "rename": _Word(
        description="give the axes other names: `{dims: h t d}`",
        make=_one(Rename),
        properties={"dims": _DIMS},
    ),
    "order": _Word(
        description="read the same values in another order of axes: `{dims: h t d}` for a file "
        "without a shape that was written head-major",
        make=_one(Order),
        properties={"dims": _DIMS},
    ),
    "reverse": _Word(
        description="read a shape that names its fastest axis first, as ggml's `ne` does",
        make=_one(Reverse),
        properties={"dims": _DIMS},
    ),
    "split": _Word(
        description="make two axes of one: `{axis: d, into: [h, d], outer: 4}`",
        make=_one(Split),
        properties={"axis": _AXIS, "into": _TWO_AXES, "outer": _COUNT},
    ),
    "join": _Word(
        description="make one axis of two: `{axes: [h, d], into: d}`",
        make=_one(Join),
        properties={"axes": _TWO_AXES, "into": _AXIS},
    ),
    "part": _Word(
        description="keep a range of one axis: `{axis: d, start: 0, stop: 64}`",
        make=_one(Part),
        properties={"axis": _AXIS, "start": _PLACE, "stop": _COUNT},
    ),
    "fused_qkv": _Word(
        description="take q, k or v out of a fused projection of q, then k, then v",
        make=fused_qkv,
        properties={
            "part": {"enum": ["q", "k", "v"]},
            "heads": _COUNT,
            "kv_heads": _COUNT,
            "head_dim": _COUNT,
        },
    ),
    "repeat": _Word(
        description="repeat key/value heads for the query heads that share them: "
        "`{axis: k, into: h, times: 2}`",
        make=_one(Repeat),
        properties={"axis": _AXIS, "into": _AXIS, "times": _COUNT, "adjacent": {"type": "boolean"}},
        optional=("adjacent",),
    ),
    "unpad": _Word(
        description="drop padding tokens and number the others from 0: `{count: 3, side: left}`",
        make=_one(Unpad),
        properties={"count": _COUNT, "side": {"enum": ["left", "right"]}},
    ),
    "select": _Word(
        description="keep the tokens at some positions, in that order",
        make=_one(Select),
        properties={"positions": {"type": "array", "items": _PLACE, "minItems": 1}},
    ),
    "mask": _Word(
        description="fill the places that a token does not see with -inf, whatever filled them",
        make=_one(Mask),
        properties={"window": _COUNT},
        optional=("window",),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """One entry of a side's list.

    Attributes:
        word: the step as it was written.
        stages: the stages that it is for; None for all.
        steps: what it stands for.
    """

    word: str
    stages: frozenset[str] | None
    steps: tuple[Step, ...]

    def concerns(self, site: Site) -> bool:
        """Tell whether it is for a site."""
        return self.stages is None or site.stage in self.stages


def parse_alignments(value: Mapping[str, Any]) -> dict[str, tuple[Alignment, ...]]:
    """Read what ``ALIGN_SCHEMA`` accepts: by side, the steps in order."""
    return {side: tuple(map(_parsed, entries)) for side, entries in value.items()}


def _parsed(entry: Mapping[str, Any]) -> Alignment:
    word = next(name for name in entry if name != STAGES_KEY)
    given = {
        name: tuple(each) if isinstance(each, list) else each for name, each in entry[word].items()
    }
    stages = entry.get(STAGES_KEY)
    return Alignment(
        word=word,
        stages=None if stages is None else frozenset(map(canonical, stages)),
        steps=WORDS[word].make(**given),
    )


def aligned(
    captures: Mapping[str, Capture], alignments: Mapping[str, Sequence[Alignment]]
) -> dict[str, Capture]:
    """Return the captures of one comparison, each in the layout that its steps bring it to.

    Args:
        captures: by side.
        alignments: by side, in order.

    Raises:
        ContractError: when there is no such side, or a step concerns no tensor.
        AlignmentError: when a tensor has not the layout that a step expects; all sides are
            described.
    """
    found = dict(captures)
    for side, entries in alignments.items():
        if side not in found:
            msg = f"`align` brings the {side} into shape, and there is none"
            raise ContractError(msg, expected=f"steps for {' or '.join(found)}")
        for number, entry in enumerate(entries, start=1):
            found[side] = _after(found, side, number, entry)
    return found


def _after(captures: Mapping[str, Capture], side: str, number: int, entry: Alignment) -> Capture:
    capture = captures[side]
    concerned = [site for site in capture.tensors if entry.concerns(site)]
    if not concerned:
        msg = f"step {number} of the {side}'s `align`, `{entry.word}`, concerns no tensor"
        shown = ", ".join(sorted({site.stage for site in capture.tensors})) or "nothing"
        raise ContractError(msg, expected=f"stages that the {side} shows: {shown}")
    tensors = dict(capture.tensors)
    for site in concerned:
        try:
            tensors[site] = apply_all(tensors[site], entry.steps)
        except AlignmentError as error:
            why = error.what.removesuffix(f": {tensors[site].describe()}")
            what = f"{site}: step {number} of the {side}'s `align`, `{entry.word}`: {why}"
            msg = what + _described(captures, site)
            raise AlignmentError(msg, expected=error.expected) from error
    return replace(capture, tensors=tensors)


def _described(captures: Mapping[str, Capture], site: Site) -> str:
    return "".join(
        f"\n  {side + ':':<8} {each.tensors[site].describe()}"
        for side, each in captures.items()
        if site in each.tensors
    )


_STEP_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": f"one of {', '.join(WORDS)}, and the `stages` that it is for",
    "properties": {
        STAGES_KEY: {
            "type": "array",
            "items": {
                "description": "a stage",
                "anyOf": [
                    {"enum": [*STAGES, *ALIASES]},
                    {"type": "string", "pattern": f"^{MODULE}"},
                ],
            },
            "minItems": 1,
            "uniqueItems": True,
        },
        **{name: word.schema for name, word in WORDS.items()},
    },
    "additionalProperties": False,
    "oneOf": [{"required": [name]} for name in WORDS],
}

ALIGN_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "by side, steps that bring its tensors into the layout of the others",
    "properties": {side: {"type": "array", "items": _STEP_SCHEMA, "minItems": 1} for side in SIDES},
    "additionalProperties": False,
    "minProperties": 1,
}
"""JSON Schema (draft 2020-12) of what ``parse_alignments`` reads."""
