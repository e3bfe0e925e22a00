"""What is the user's own, when it fails."""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_falsify.errors import CaptureError, FalsifyError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def own(what: str) -> Iterator[None]:
    """Run code of the user's, and tell what it raises as a mistake of theirs.

    Args:
        what: which code, for the message.

    Raises:
        FalsifyError: its own, or one that names the error and the line.
    """
    try:
        yield
    except FalsifyError:
        raise
    except Exception as error:  # what the user's code raises is not known here
        place = traceback.extract_tb(error.__traceback__)[-1]
        msg = f"{what} failed: {type(error).__name__}: {error}"
        remedy = f"mend it at {place.filename}:{place.lineno}"
        raise CaptureError(msg, remedy=remedy) from error
