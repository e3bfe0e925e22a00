"""What a transfer has to bring: every tensor that was sent, of its dtype and shape, and no other.

Values may be off as far as the codec declares, which is for the checks to judge. A tensor that is
lost leaves nothing to decode from: that is an error, and never a verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import CaptureError
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST_NAMED = 5
_EXPECTED = "every tensor that is sent, by its name, of its dtype and shape, and no other"


def must_be_as_sent(sent: Mapping[str, Any], arrived: Mapping[str, Any], who: str) -> None:
    """Refuse what arrived when a tensor is lost, too much, or of another kind.

    Args:
        sent: tensors of torch or arrays of NumPy, by name.
        arrived: the same, as they arrived.
        who: what carried them, for the message.

    Raises:
        CaptureError: naming the tensors.
    """
    lost = [name for name in sent if name not in arrived]
    surplus = [name for name in arrived if name not in sent]
    changed = [
        f"{name} ({_kind(arrived[name])} instead of {_kind(each)})"
        for name, each in sent.items()
        if name in arrived and _kind(arrived[name]) != _kind(each)
    ]
    for names, what in ((lost, "lost"), (surplus, "made up"), (changed, "changed")):
        if names:
            msg = f"{who} {what} {len(names)} of {number_of(len(sent), 'tensor')}: {_listed(names)}"
            raise CaptureError(msg, expected=_EXPECTED)


def _kind(tensor: Any) -> str:
    """Return the dtype and the shape; of what is no tensor, its type."""
    if not hasattr(tensor, "dtype"):
        return type(tensor).__name__
    name = str(tensor.dtype).removeprefix("torch.")
    return f"{name} {list(tensor.shape)}"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    shown = ", ".join(every[:MOST_NAMED])
    return shown if len(every) <= MOST_NAMED else f"{shown}, ..."
