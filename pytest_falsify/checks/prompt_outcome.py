"""What one prompt of a dataset came to: small enough to be kept of every one of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from pytest_falsify.checks.marks import Mark

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.captures.capture import Capture
    from pytest_falsify.checks.marks import Question


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOutcome:
    """What was seen of one prompt.

    Attributes:
        id: the prompt, as its dataset calls it.
        tokens: how many it has; None: it could not even be made into tokens.
        subject: the subject's answer beside the oracle's.
        control: the control's, where there is one.
        answers: the tokens that the subject and the oracle chose.
        planted: how many faults were planted in a copy of the subject's answer.
        missed: those of them that were not found to differ.
        is_resumed: whether it was seen by an earlier run that was killed.
    """

    id: str
    tokens: int | None
    subject: Mark
    control: Mark | None = None
    answers: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    planted: int = 0
    missed: tuple[str, ...] = ()
    is_resumed: bool = False

    @classmethod
    def of(
        cls,
        id: str,  # noqa: A002 - the field's own word
        question: Question,
        runs: Mapping[str, Capture],
    ) -> Self:
        """Mark one prompt's answers, and plant faults in the subject's where it agrees.

        Args:
            id: the prompt.
            question: what is asked about it.
            runs: the captures by role.

        Raises:
            AlignmentError: when two runs choose from different vocabularies.
        """
        subject, oracle, control = (runs.get(role) for role in ("subject", "oracle", "control"))
        if subject is None or oracle is None:
            return cls(id=id, tokens=None, subject=Mark(differs=None, why="it was not run"))
        mark = question.mark(subject, oracle)
        faults = tuple(question.faulty(subject)) if mark.differs is False else ()
        missed = [name for name, each in faults if question.mark(each, oracle).differs is not True]
        return cls(
            id=id,
            tokens=len(oracle.inputs.tokens),
            subject=mark,
            control=None if control is None else question.mark(control, oracle),
            answers=(question.answer(subject), question.answer(oracle)),
            planted=len(faults),
            missed=tuple(missed),
        )

    @classmethod
    def unseen(cls, id: str, why: str, *, is_paired: bool, tokens: int | None = None) -> Self:  # noqa: A002
        """Return the outcome of a prompt that could not be run."""
        lost = Mark(differs=None, why=why)
        return cls(id=id, tokens=tokens, subject=lost, control=lost if is_paired else None)

    @property
    def lack(self) -> str:
        """Why it could not be judged; nothing where it could."""
        return self.subject.why or (self.control.why if self.control else "")

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote; it was seen by an earlier run.

        Raises:
            KeyError, TypeError: when it is something else.
        """
        mine, theirs = body["answers"]
        found = cls(
            **{
                **body,
                "subject": Mark(**body["subject"]),
                "control": None if body["control"] is None else Mark(**body["control"]),
                "answers": (tuple(mine), tuple(theirs)),
                "missed": tuple(body["missed"]),
            }
        )
        return replace(found, is_resumed=True)
