"""What a claim rests on that can be told without trying it: digests that need no device.

They are compared wherever a contract is read, so a change that is made on a laptop makes evidence
stale even when the target can be tried on a server only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.canonical import digest
from pytest_falsify.contracts.dataset import TOKENS
from pytest_falsify.contracts.digest import captures_of, inputs_of
from pytest_falsify.engines.model_path import model_digest, model_path
from pytest_falsify.engines.sources import repository, sources_digest
from pytest_falsify.engines.tokenizer import tokenizer_files
from pytest_falsify.engines.weight_digests import file_digest
from pytest_falsify.errors import ContractError, FalsifyError
from pytest_falsify.ledger.digests import Digests

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_falsify.contracts.model import Contract, Falsifier, InputSpec, Target

SOURCES = "sources"
DECLARED: Mapping[str, Any] = {
    SOURCES: {
        "type": "array",
        "items": {"type": "string", "minLength": 1},
        "minItems": 1,
        "uniqueItems": True,
        "description": "globs, relative to the repository, of the files that the engine's code is "
        "made of: when one changes, what it showed is stale",
    }
}
"""What a capture may declare whatever its engine is."""


class Declarations:
    """Digests of what contracts declare, each made once as long as this object lives.

    Make a new one for each look at the files: they may change in between.
    """

    def __init__(self) -> None:
        self._sources: dict[object, str | None] = {}
        self._models: dict[object, str | None] = {}

    def of(self, contract: Contract, falsifier: Falsifier, target: Target) -> Digests:
        """Return the digests of one claim; None where something is not here or not declared."""
        inputs = inputs_of(contract, falsifier)
        return Digests(
            sources=self._of_sources(contract, falsifier, inputs),
            model=self._of_model(contract, target, has_text=_has_text(inputs)),
            declared=digest([target.model, target.revision, target.device, target.level.value]),
        )

    def _of_sources(
        self, contract: Contract, falsifier: Falsifier, inputs: tuple[InputSpec, ...]
    ) -> str | None:
        globs = sorted({glob for _, glob in _globs(contract, falsifier)})
        named = {name for each in inputs for name in (each.file, each.dataset)}
        files = sorted(name for name in named if name is not None)
        key = (contract.path, tuple(globs), tuple(files))
        if key not in self._sources:
            self._sources[key] = _digest_of_files(contract, globs, files)
        return self._sources[key]

    def _of_model(self, contract: Contract, target: Target, *, has_text: bool) -> str | None:
        key = (contract.path.parent, target.model, target.revision, has_text)
        if key not in self._models:
            self._models[key] = _digest_of_model(contract, target, has_text=has_text)
        return self._models[key]


def must_have_sources(contract: Contract, falsifier: Falsifier) -> None:
    """Refuse declared sources that are not there: evidence would depend on nothing.

    Raises:
        ContractError: naming the line that declares them.
    """
    root = repository(contract.path)
    for line, glob in _globs(contract, falsifier):
        if not any(path.is_file() for path in root.glob(glob)):
            msg = f"there is no file {glob} in the repository"
            raise ContractError(
                msg,
                path=contract.path,
                line=line,
                expected="globs of the program's own sources, relative to the repository",
            )


def _globs(contract: Contract, falsifier: Falsifier) -> Iterator[tuple[int, str]]:
    """Yield the declared sources of a claim, each with the line of what declares it."""
    for spec in captures_of(contract, falsifier).values():
        yield from ((spec.line, glob) for glob in spec.options.get(SOURCES, ()))
    if falsifier.check is not None:
        line = falsifier.check.line
        yield from ((line, glob) for glob in falsifier.check.parameters.get(SOURCES, ()))


def _has_text(inputs: tuple[InputSpec, ...]) -> bool:
    return any(each.tokens is None and each.field != TOKENS for each in inputs)


def _digest_of_files(contract: Contract, globs: list[str], files: list[str]) -> str | None:
    if not globs and not files:
        return None
    contents = {name: _digest_or_none(contract, name) for name in files}
    try:
        sources = sources_digest(repository(contract.path), globs)
    except OSError:  # what cannot be read is not what was seen
        sources = None
    return digest([sources, contents])


def _digest_or_none(contract: Contract, name: str) -> str | None:
    try:
        return file_digest(contract.path.parent / name)
    except OSError:
        return None


def _digest_of_model(contract: Contract, target: Target, *, has_text: bool) -> str | None:
    """The digest of the target's files, where they are here and whole."""
    if not target.model:
        return None
    try:
        path = model_path(target, contract.path.parent)
        files = tokenizer_files(path) if has_text and path.is_dir() else ()
        return digest([model_digest(path), {each.name: file_digest(each) for each in files}])
    except (FalsifyError, OSError):
        return None
