"""Checks by kind. A package offers one under the entry-point group ``pytest_falsify.checks``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.plugins import Parts

if TYPE_CHECKING:
    from pytest_falsify.checks.base import Check

BUILT_IN = {
    "argmax": "pytest_falsify.checks.choices:Argmax",
    "command": "pytest_falsify.checks.command:Command",
    "decode": "pytest_falsify.checks.decode:Decode",
    "deterministic": "pytest_falsify.checks.deterministic:Deterministic",
    "differs": "pytest_falsify.checks.differs:Differs",
    "distribution": "pytest_falsify.checks.distribution:Distribution",
    "identical": "pytest_falsify.checks.identical:Identical",
    "invariance": "pytest_falsify.checks.invariance:Invariance",
    "kv": "pytest_falsify.checks.kv:Kv",
    "localize": "pytest_falsify.checks.localize:Localize",
    "parity": "pytest_falsify.checks.parity:Parity",
    "rate": "pytest_falsify.checks.rate:RateCheck",
    "routing": "pytest_falsify.checks.routing:RoutingCheck",
    "tokens": "pytest_falsify.checks.tokens:Tokens",
    "topk": "pytest_falsify.checks.choices:TopK",
    "unobserved": "pytest_falsify.checks.unobserved:Unobserved",
}
CHECKS: Parts[Check] = Parts("check kind", group="pytest_falsify.checks", built_in=BUILT_IN)
check_kinds = CHECKS.names
check = CHECKS.get
