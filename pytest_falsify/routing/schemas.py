"""JSON Schema with the formats checked, which stock validators only do when asked to."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import jsonschema_rs

    from pytest_falsify.contracts.problems import Steps

EXPECTED = {"date-time": "a date and time of RFC 3339 with its offset: 2026-03-18T12:00:00Z"}
STRUCTURAL = frozenset({"type", "required"})


class Violation(NamedTuple):
    """One thing that does not fit.

    Attributes:
        is_structural: nothing can be read from this place.
    """

    at: Steps
    what: str
    is_structural: bool


class Schema:
    """A schema that decides fast and explains slowly.

    Args:
        schema: JSON Schema, draft 2020-12.
        formats: what tells whether a string has a format, by the format's name.
    """

    def __init__(
        self, schema: Mapping[str, Any], formats: Mapping[str, Callable[[object], bool]]
    ) -> None:
        self._schema = dict(schema)
        self._formats = dict(formats)

    @cached_property
    def _validator(self) -> jsonschema_rs.Draft202012Validator:
        import jsonschema_rs

        return jsonschema_rs.Draft202012Validator(
            self._schema, validate_formats=True, formats=self._formats
        )

    def violations(self, value: Any, at: Steps = ()) -> Iterator[Violation]:
        """Yield what does not fit, in words.

        Args:
            value: the value on trial.
            at: where it stands in its document.
        """
        if self._validator.is_valid(value):
            return
        from jsonschema import Draft202012Validator, FormatChecker

        from pytest_falsify.contracts.explain import explain

        checker = FormatChecker(formats=())
        for name, tells in self._formats.items():
            checker.checks(name)(tells)
        for error in Draft202012Validator(self._schema, format_checker=checker).iter_errors(value):
            for problem in explain(error, at):
                is_format = error.validator == "format"
                expected = EXPECTED[error.validator_value] if is_format else problem.expected
                what = f"{problem.what}; expected {expected}"
                yield Violation(problem.at, what, error.validator in STRUCTURAL)
