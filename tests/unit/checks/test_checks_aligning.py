"""A claim's ``align``: what a check sees, what the entry means, what is refused at load."""

import numpy as np
import pytest
from checks_support import SITES, make_capture, make_claim

from pytest_falsify._loading import load
from pytest_falsify.captures.capture import CapturedTensor
from pytest_falsify.captures.plan import Plan
from pytest_falsify.checks.aligning import aligned_captures
from pytest_falsify.checks.base import Request
from pytest_falsify.checks.registry import check
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.contracts.digest import entry_digest
from pytest_falsify.errors import AlignmentError, ContractError
from pytest_falsify.ledger.evidence import Outcome

CONTRACT = """\
metadata: {{id: C-A}}
targets: {{here: {{model: ./m}}}}
captures:
  subject: {{engine: transformers, attention: sdpa}}
  oracle: {{engine: transformers}}
inputs: {{prompt: {{tokens: [1, 2, 3, 4]}}}}
falsification_tests:
- id: FALSIFY-A-1
  rule: they agree
  check: {{kind: identical, subject: subject, oracle: oracle, stages: [attn_out]{align}}}
"""
TURNED = ", align: {subject: [{rename: {dims: d t}}]}"


def loaded(tmp_path, align):
    path = tmp_path / "c.yaml"
    path.write_text(CONTRACT.format(align=align))
    contract = load(path)
    return contract, contract.falsifiers[0]


def asked(role):
    return Request(role=role, capture=role[0], input="prompt", plan=Plan())


def verdict(align):
    """Judge a subject whose tensors lie on their sides, under their stages' dims."""
    oracle = make_capture()
    turned = {
        site: CapturedTensor(
            array=np.ascontiguousarray(each.array.T), dims="t d", positions=tuple(range(8))
        )
        for site, each in oracle.tensors.items()
    }
    subject = make_capture()
    subject = type(subject)(
        identity=subject.identity,
        inputs=subject.inputs,
        plan=subject.plan,
        tensors=turned,
        logits=subject.logits,
    )
    claim = make_claim("identical", subject="s", oracle="o", **align)
    captures = aligned_captures(claim, {asked("subject"): subject, asked("oracle"): oracle})
    return check("identical").judge(claim, captures, compare_captures)


def test_a_check_sees_what_the_claim_brings_into_shape():
    held = verdict({"align": {"subject": [{"rename": {"dims": "d t"}}]}})
    assert held.outcome is Outcome.HELD
    assert held.coverage["sites"] == len(SITES)


def test_without_it_the_tensors_are_refused_and_a_wrong_one_is_too():
    with pytest.raises(AlignmentError, match="the tokens differ"):
        verdict({})
    split = {"axis": "d", "into": ["h", "d"], "outer": 3}
    with pytest.raises(AlignmentError, match=r"step 1 of the subject's `align`, `split`"):
        verdict({"align": {"subject": [{"split": split}]}})


def test_alignment_is_part_of_what_an_entry_means(tmp_path):
    plain, turned = (entry_digest(*loaded(tmp_path, align)) for align in ("", TURNED))
    assert plain != turned


@pytest.mark.parametrize(
    ("align", "expected"),
    [
        (", align: {subject: [{turn: {dims: d t}}]}", "unknown key `turn`"),
        (", align: {subjects: []}", "unknown key `subjects`"),
        (", align: {subject: [{stages: [attn_outt], mask: {}}]}", "attn_outt"),
    ],
)
def test_a_wrong_alignment_is_an_error_of_the_contract_with_its_line(tmp_path, align, expected):
    with pytest.raises(ContractError, match=expected) as caught:
        loaded(tmp_path, align)
    assert "c.yaml:10" in str(caught.value)
