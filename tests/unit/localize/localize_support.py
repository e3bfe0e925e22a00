"""Runs of a small seeded model: honest ones, and ones with a fault planted while they ran."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_falsify.captures.capture import Capture, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines.registry import engine
from pytest_falsify.localize.evaluation import Evaluator
from pytest_falsify.stages.vocabulary import STAGES, Site

INPUTS = TokenInputs(name="seeded", tokens=tuple((7 * place + 3) % 64 for place in range(16)))
EVERYTHING = ("qkv_matmul", "attn_scores", "attn_softmax")

CONTRACT = """\
metadata: {{id: C-SMALL}}
targets: {{small: {{model: "{model}", device: cpu, level: algorithm}}}}
captures:
  oracle: {{engine: transformers, dtype: float32}}
  control: {{engine: transformers, dtype: bfloat16}}
  rounded: {{engine: transformers, dtype: float32, rounding: {{dtype: bfloat16}}}}
  four-bit: {{engine: transformers, dtype: float32, rounded_weights: int4 groups}}
  four-bit-sdpa:
    engine: transformers
    dtype: float32
    attention: sdpa
    rounded_weights: int4 groups
  honest: {{engine: transformers, dtype: bfloat16, attention: sdpa}}
  faulty:
    engine: transformers
    dtype: bfloat16
    plant: {{site: 0/1/q_post_rope, fault: heads exchanged}}
inputs: {{seeded: {{tokens: {tokens}}}}}
falsification_tests:
- id: FALSIFY-SMALL-001
  rule: the guilty are found
  check: {{oracle: oracle, {check}}}
"""


def make_model(folder: Path, family: str = "qwen2", **more: Any) -> None:
    """Write a model of two layers whose weights are spread as trained ones are."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(
        family,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        **more,
    )
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape)
            if "norm" in name:
                parameter.add_(0.3 * drawn)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * drawn)
            else:
                parameter.copy_(1.5 * drawn / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)


@dataclass(frozen=True)
class Lab:
    """Loads the model once per way of running it, and runs it once per question."""

    folder: Path
    sessions: dict[str, Any] = field(default_factory=dict)
    captures: dict[Any, Capture] = field(default_factory=dict)
    evaluators: dict[str, Evaluator] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return what hypothesis prints beside a failing example."""
        return "Lab"

    def session(self, **options: Any) -> Any:
        key = repr(sorted(options.items()))
        if key not in self.sessions:
            target = Target(name="small", model=str(self.folder), line=0)
            spec = CaptureSpec(name="small", engine="transformers", line=0, options=options)
            found = engine("transformers").load(target, spec, root=Path(), device="cpu")
            self.sessions[key] = found
        return self.sessions[key]

    def capture(self, stages: tuple[str, ...] | None = None, **options: Any) -> Capture:
        key = (stages, repr(sorted(options.items())))
        if key not in self.captures:
            session = self.session(**options)
            self.captures[key] = record(session, INPUTS, Plan(stages=stages or shown(session)))
        return self.captures[key]

    def evaluator(self, dtype: str = "float32") -> Evaluator:
        if dtype not in self.evaluators:
            self.evaluators[dtype] = Evaluator.of(self.session(dtype="float32").model, dtype)
        return self.evaluators[dtype]


def shown(session: Any) -> tuple[str, ...]:
    """Return every stage that a session can show."""
    more = EVERYTHING if session.settings["attention"] == "eager" else ("qkv_matmul",)
    return tuple(name for name in STAGES if name in {*session.stages, *more})


def plant(site: str, fault: str) -> dict[str, str]:
    return {"site": site, "fault": fault}


def site(text: str) -> Site:
    return Site.parse(text)
