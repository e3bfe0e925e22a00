"""What two workers showed may outlive a test run only where nothing of the user's computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_falsify.contracts.model import CaptureSpec
from pytest_falsify.disaggregation.engine import DisaggregatedSession, _settings

NOBODY: Any = None


@pytest.mark.parametrize(
    ("options", "is_complete"),
    [
        ({}, True),
        ({"transfer": {"codec": "int8", "per": "head"}}, True),
        ({"transfer": {"codec": "json:codec"}}, False),
        ({"transfer": {"through": "json:loads"}}, False),
        ({"decode": {"setup": "json:loads"}}, False),
        ({"sources": ["src/*.py"]}, False),
    ],
)
def test_what_a_user_supplies_is_not_covered(options, is_complete):
    spec = CaptureSpec(name="served", engine="disaggregated", line=1, options=options)
    session = DisaggregatedSession(
        prefill=NOBODY,
        transfer=NOBODY,
        decode={},
        key="",
        settings=_settings(spec, Path(__file__).parents[3]),
    )
    assert session.is_identity_complete is is_complete
