"""Bringing two tensors of one population into one shape, or refusing to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.errors import AlignmentError

if TYPE_CHECKING:
    from typing import Never

    from numpy.typing import NDArray

    from pytest_falsify.captures.capture import CapturedTensor

TOKENS = "t"


def align(
    subject: CapturedTensor, oracle: CapturedTensor, *, select_tokens: bool = False
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the subject's and the oracle's values in the oracle's order of axes.

    Args:
        subject: any order of the oracle's axes.
        oracle: gives the order of axes and the tokens.
        select_tokens: allow a subject with fewer tokens, and compare those alone.

    Raises:
        AlignmentError: when they are different populations; both are described.
    """
    for each, side in ((subject, "subject"), (oracle, "oracle")):
        _refuse_misdescribed(each, side)
    if subject.mask != oracle.mask:
        _refuse(
            f"masked places are filled differently (`{subject.mask}`, `{oracle.mask}`)",
            subject,
            oracle,
        )
    mine = _transposed(subject, oracle)
    theirs = oracle.array
    if subject.positions != oracle.positions:
        theirs = _selected(subject, oracle, allowed=select_tokens)
    if mine.shape != theirs.shape:
        _refuse("the shapes differ", subject, oracle)
    return mine, theirs


def axes(tensor: CapturedTensor) -> tuple[str, ...]:
    """Return the names of a tensor's axes."""
    return tuple(tensor.dims.split())


def _refuse_misdescribed(tensor: CapturedTensor, side: str) -> None:
    names = axes(tensor)
    if len(names) != tensor.array.ndim or len(set(names)) != len(names):
        msg = f"the {side}'s dims do not describe its axes: {tensor.describe()}"
        raise AlignmentError(msg, expected="one name for each axis, each name once")
    if TOKENS in names and tensor.array.shape[names.index(TOKENS)] != len(tensor.positions):
        msg = f"the {side}'s positions do not fit its `{TOKENS}` axis: {tensor.describe()}"
        raise AlignmentError(msg, expected="one position for each token")


def _transposed(subject: CapturedTensor, oracle: CapturedTensor) -> NDArray[Any]:
    names = axes(subject)
    if set(names) != set(axes(oracle)):
        _refuse("the axes differ", subject, oracle)
    return subject.array.transpose([names.index(name) for name in axes(oracle)])


def _selected(subject: CapturedTensor, oracle: CapturedTensor, *, allowed: bool) -> NDArray[Any]:
    at = {position: index for index, position in enumerate(oracle.positions)}
    is_subset = set(subject.positions) <= set(at) and bool(subject.positions)
    if not (allowed and is_subset and TOKENS in axes(oracle)):
        _refuse(
            "the tokens differ",
            subject,
            oracle,
            remedy=f"ask for token selection: {_selection(subject)}" if is_subset else None,
        )
    chosen = [at[position] for position in subject.positions]
    return oracle.array.take(chosen, axis=axes(oracle).index(TOKENS))


def _selection(subject: CapturedTensor) -> str:
    positions = ", ".join(map(str, subject.positions))
    return f"`align: {{oracle: [{{select: {{positions: [{positions}]}}}}]}}`"


def _refuse(
    what: str, subject: CapturedTensor, oracle: CapturedTensor, *, remedy: str | None = None
) -> Never:
    sides = f"\n  subject: {subject.describe()}\n  oracle:  {oracle.describe()}"
    raise AlignmentError(what + sides, expected="one population on both sides", remedy=remedy)
