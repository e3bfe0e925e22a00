"""What tests of engines share: targets, captures, and the C engine built once."""

from __future__ import annotations

import shutil
import subprocess

from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines.registry import engine

PROMPT = TokenInputs(name="prompt", tokens=(3, 141, 59, 26, 535, 8))
DECODER = (
    "embedding", "attn_norm", "qkv_matmul", "qkv_bias", "q_post_rope", "k_post_rope",
    "attn_scores", "attn_softmax", "attention", "attn_out", "post_attn_residual", "ffn_norm",
    "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out", "post_ffn_residual", "final_norm",
    "lm_head",
)  # fmt: skip
EVERYTHING = Plan(stages=DECODER)
ARGUMENTS = "--model {model} --tokens {tokens} --stages {stages} --layers {layers} --out {out}"


def load(name, model, *, root=None, line=1, **options):
    target = Target(name="here", model=str(model), line=line)
    spec = CaptureSpec(name="mine", engine=name, line=line, options=options)
    return engine(name).load(target, spec, root=root or model, device="cpu")


def build(source, folder):
    """Build the C engine; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    program = folder / "qwen2"
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command = [compiler, "-std=c11", "-O2", *warnings, "-o", program, source, "-lm"]
    subprocess.run(command, check=True, timeout=120)
    return program
