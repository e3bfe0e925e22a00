"""Make claims about language-model inference refutable, localisable and trustworthy."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Return a public name, loaded when it is asked for: importing the package costs nothing."""
    if name == "FalsifyWarning":
        from pytest_falsify._warnings import FalsifyWarning

        return FalsifyWarning
    if name == "python_engine":
        from pytest_falsify.engines.python import python_engine

        return python_engine
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
