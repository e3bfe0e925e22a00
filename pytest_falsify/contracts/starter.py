"""The commented contract that ``pytest-falsify new`` writes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class StarterCapture:
    """One capture of a starter contract: an engine and its options."""

    engine: str = "transformers"
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)


_TEMPLATE = """\
# yaml-language-server: $schema={schema}
# A contract: claims about a model, and how each is tried. Run it with
#   pytest --falsify {file}
metadata:
  id: {id}
  version: 0.1.0
  description: {subject_name} computes what {oracle_name} computes

# What is claimed. A falsifier binds to an equation by its name.
equations:
  parity:
    formula: "|subject - oracle| / |oracle| <= tolerance, at every stage and in every row"
    invariants:
    - "every stage of the subject is within rounding of the oracle"

# Where it is tried. `level: live` is for the system that is really served.
targets:
  first: {{model: {model}, device: {device}, level: algorithm}}

# Who is on trial (subject), and who is trusted (oracle).
captures:
  subject: {subject}
  oracle: {oracle}

# What the model is fed: text, token ids, or a file of text.
inputs:
  prompt: {{text: "The function returns a new list with the items in sorted order"}}

falsification_tests:
- id: FALSIFY-{prefix}-001
  rule: the subject agrees with the oracle at every stage
  prediction: the relative L2 error stays below 1e-3, the worst token below 1e-2
  if_fails: look at the first site beyond its limit; what comes after it may only have inherited it
  binds_to: parity
  require: PARTIAL            # what the gate demands: PARTIAL, FUNCTIONAL or DISCHARGED
  check:
    kind: parity
    subject: subject
    oracle: oracle
    stages: [embedding, attn_norm, attn_out, ffn_norm, ffn_out, post_ffn_residual, lm_head]
    layers: all               # or a list, or `0..4` for 0, 1, 2, 3
    expect: {{rel_l2: {{max: 1e-3}}, worst_row: {{max: 1e-2}}}}

- id: FALSIFY-{prefix}-002
  rule: looking does not change what is seen
  prediction: the logits are the same bits with and without capturing
  if_fails: no other number of this contract can be believed
  binds_to: parity
  require: PARTIAL
  check: {{kind: unobserved, subject: subject, stages: all}}
"""


def starter(
    model: str,
    *,
    subject: StarterCapture,
    oracle: StarterCapture,
    file: str,
    device: str = "cpu",
    schema: str = "contract-v1.schema.json",
) -> str:
    """Return the text of a starter contract for a model and two captures.

    Args:
        model: a folder relative to the contract, or a name in a model hub.
        subject: the capture on trial.
        oracle: the capture that is trusted.
        file: where the contract is going to be, for the comments and the ids.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
        schema: where an editor finds the JSON Schema.
    """
    stem = file.replace("\\", "/").rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml")
    prefix = re.sub(r"[^A-Z0-9]+", "-", stem.upper()).strip("-") or "NEW"
    return _TEMPLATE.format(
        schema=schema,
        file=file,
        id=f"C-{prefix}",
        prefix=prefix,
        model=json.dumps(model, ensure_ascii=False),
        device=json.dumps(device),
        subject=_flow(subject),
        oracle=_flow(oracle),
        subject_name=_named(subject),
        oracle_name=_named(oracle),
    )


def _flow(capture: StarterCapture) -> str:
    # JSON is YAML, so whatever an option holds is spelt safely.
    return json.dumps({"engine": capture.engine, **capture.options}, ensure_ascii=False)


def _named(capture: StarterCapture) -> str:
    words = (capture.engine, *map(str, capture.options.values()))
    return " ".join(word for word in words if re.fullmatch(r"[\w.-]+", word))
