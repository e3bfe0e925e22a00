"""What a contract may name: the check kinds, the engines and the stages that are installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

JsonSchema = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vocabulary:
    """The words that the rooms above hand down, so that contracts need not import them.

    It is compared by identity: make one a session, and what is compiled for it is compiled once.

    Attributes:
        checks: for each check kind the JSON Schema of its parameters: an object schema whose
            ``properties`` name every key that may stand beside ``kind``. The keys that all kinds
            share (``subject``, ``oracle``, ``noise``, ``stages``, ``layers``, ``inputs``) are
            checked by the contract's own schema; here ``{}`` is enough to allow one.
        engines: for each engine the JSON Schema of each option that a capture may give it.
        surveys: the check kinds that are tried with datasets, and with nothing else.
        repeating: the check kinds that repeat what they observe, and record how often.
        hosted: the check kinds that need no target: where none is named they run on this machine.
        stage: returns the canonical name of a stage, and raises FalsifyError for an unknown one.
    """

    checks: Mapping[str, JsonSchema]
    engines: Mapping[str, Mapping[str, JsonSchema]]
    stage: Callable[[str], str]
    hosted: frozenset[str] = frozenset()
    surveys: frozenset[str] = frozenset()
    repeating: frozenset[str] = frozenset()
