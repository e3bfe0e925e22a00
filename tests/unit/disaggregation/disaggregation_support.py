"""Small models with random weights, and the workers and sessions that run them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_falsify._maker import CaptureMaker, requested
from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.pool import CapturePool
from pytest_falsify.checks.claim import Claim
from pytest_falsify.checks.registry import check
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.contracts.model import (
    CaptureSpec,
    CheckSpec,
    Contract,
    Falsifier,
    InputSpec,
    Target,
)
from pytest_falsify.engines.registry import engine

if TYPE_CHECKING:
    from pytest_falsify.checks.base import Captures
    from pytest_falsify.checks.verdict import Verdict

CACHES = ("k_cache", "v_cache")
TOKENS = tuple(range(3, 14))
SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 7},
    "qwen3": {
        "head_dim": 8,
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
}


def save_model(family: str, folder: Path) -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(7)
    config = AutoConfig.for_model(family, **SMALL, **FAMILIES[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def open_session(name: str, folder: Path, *, root: Path | None = None, **options):
    target = Target(name="t", model=str(folder), line=1)
    spec = CaptureSpec(name="c", engine=name, line=1, options=options)
    return engine(name).load(target, spec, root=root or folder, device="cpu")


def prompt(tokens=TOKENS, forced=()) -> TokenInputs:
    return TokenInputs(name="prompt", tokens=tuple(tokens), forced=tuple(forced))


def watching(*stages: str, steps: int = 2, has_transfer: bool = True) -> Plan:
    return Plan(stages=stages or CACHES, decode_steps=steps, has_transfer=has_transfer)


@dataclass(kw_only=True)
class Bench:
    """One model on trial: captures are made as falsifiers have them made."""

    folder: Path
    tokens: tuple[int, ...] = tuple(range(3, 24))
    pool: CapturePool = field(default_factory=CapturePool)

    def claim(self, kind: str, options: Any, **parameters: Any) -> Claim:
        """Return the claim of a check about a disaggregated subject and a monolithic oracle.

        Options that are a name make the capture of that name the subject.
        """
        subject = "subject" if isinstance(options, dict) else options
        named = {"subject": subject}
        named |= {"oracle": "oracle"} if "oracle" in check(kind).required else {}
        engines = {
            "oracle": ("transformers", {}),
            "control": ("transformers", {"attention": "sdpa"}),
            "subject": ("disaggregated", options if isinstance(options, dict) else {}),
        }
        captures = {
            name: CaptureSpec(name=name, engine=engine_name, line=1, options=own)
            for name, (engine_name, own) in engines.items()
        }
        stated = {name: each for name, each in parameters.items() if each is not None}
        spec = CheckSpec(kind=kind, line=1, parameters=named | stated)
        return Claim(
            contract=Contract(
                path=Path("c.yaml"),
                id="C",
                captures=captures,
                inputs={"prompt": InputSpec(name="prompt", line=1, tokens=self.tokens)},
            ),
            falsifier=Falsifier(id="FALSIFY-1", line=1, check=spec),
            target=Target(name="here", model=str(self.folder), line=1),
        )

    def captures(self, claim: Claim) -> Captures:
        """Return what the check of a claim asks for."""
        make = CaptureMaker(
            target=claim.target, device="cpu", pool=self.pool, root=Path(), claim=claim
        )
        return requested(make, check(claim.check.kind).requests(claim))

    def judge(self, kind: str, options: Any, **parameters: Any) -> Verdict:
        """Return the verdict of a check."""
        claim = self.claim(kind, options, **parameters)
        return check(kind).judge(claim, self.captures(claim), compare_captures)
