"""The warnings of this plugin, so that people can turn them off or into errors."""

from __future__ import annotations

import pytest


class FalsifyWarning(pytest.PytestWarning):
    """Something in a contract, or bound to one, that its writer should know."""

    __module__ = "pytest_falsify"
