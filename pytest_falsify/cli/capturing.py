"""What `pytest-falsify capture` does: a model loaded, run once, and written."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from pytest_falsify.captures.aprt import write_aprt
from pytest_falsify.captures.bundle import is_bundle, write_bundle, write_statistics
from pytest_falsify.captures.new_folder import must_be_free
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.pool import token_inputs
from pytest_falsify.captures.record import record, summarise
from pytest_falsify.captures.summary import Statistics
from pytest_falsify.checks.claim import parse_layers, parse_positions
from pytest_falsify.contracts.loader import parse
from pytest_falsify.contracts.model import CaptureSpec, InputSpec, Target
from pytest_falsify.contracts.problems import yaml_path
from pytest_falsify.contracts.schemas import Shape
from pytest_falsify.engines.device import resolve_device
from pytest_falsify.engines.registry import engine
from pytest_falsify.errors import CaptureError, ContractError
from pytest_falsify.report.provenance import size_of
from pytest_falsify.stages.vocabulary import canonical, in_order
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_falsify.captures.capture import Capture, CapturedTensor, Identity, TokenInputs
    from pytest_falsify.engines.base import Answer, Session, Sink
    from pytest_falsify.stages.vocabulary import Site

QUIET_SECONDS = 2.0
ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line asks for, as it was written.

    Attributes:
        fed: ``text``, ``tokens`` or ``file``, and its value.
    """

    model: str
    revision: str | None
    device: str
    engine: str
    options: Sequence[str]
    fed: tuple[str, Any]
    stages: str
    layers: str
    positions: str
    decode_steps: int
    forced: str | None


def make(wanted: Wanted, *, is_sketch: bool = False) -> Capture:
    """Load the model, run it once and return what was seen.

    Args:
        wanted: what the command line asks for.
        is_sketch: keep sketches of the tensors.

    Raises:
        FalsifyError: when the engine, the device or the model is absent, or the plan does not fit.
    """
    return record(*_ready(wanted), is_sketch=is_sketch)


def make_statistics(wanted: Wanted) -> Statistics:
    """Load the model, run it once and return a few numbers of what was seen; see ``make``."""
    return summarise(*_ready(wanted))


KEPT: Mapping[str, Callable[[Wanted], Capture | Statistics]] = {
    "tensors": make,
    "sketches": partial(make, is_sketch=True),
    "statistics": make_statistics,
}
"""What may be kept of every tensor, and what makes it."""


def _ready(wanted: Wanted) -> tuple[Session, TokenInputs, Plan]:
    """Return a session that tells how far it has come, and what it is to run."""
    spec = CaptureSpec(name="capture", engine=wanted.engine, line=0, options=_options(wanted))
    # A plain folder is a path here, as at any prompt; in a contract it begins with a dot.
    is_folder = Path(wanted.model).is_dir()
    model = str(Path(wanted.model).resolve()) if is_folder else wanted.model
    target = Target(
        name=wanted.model, model=model, line=0, revision=wanted.revision, device=wanted.device
    )
    plan = _plan(wanted)
    device = resolve_device(target)
    session = engine(wanted.engine).load(target, spec, root=Path.cwd(), device=device)
    plan = plan.resolved(session.stages)
    return Watched(session), _inputs(wanted, session), plan


def write(
    made: Callable[[], Capture | Statistics], out: Path, *, aprt: bool, replace: bool
) -> Iterator[str]:
    """Make a capture and write it; yield what was done. A place that is taken costs no run.

    Raises:
        CaptureError: when something is already there, or the format has no place for it.
    """
    if is_bundle(out) and not replace:
        msg = "there is already a capture here"
        remedy = "name another folder, or let it give way: --replace"
        raise CaptureError(msg, path=out, remedy=remedy)
    must_be_free(out, replaces=is_bundle)
    found = made()
    if isinstance(found, Statistics):
        write_statistics(found, out, replace=replace)
        yield f"{out}: the statistics of {number_of(len(found.sites), 'site')}"
        missing = found.run.missing
    else:
        _write_tensors(found, out, aprt=aprt, replace=replace)
        yield f"{out}: {number_of(len(found.tensors), 'site')}, {size_of(found.nbytes)}"
        missing = found.missing
    if missing:
        yield f"missing: {number_of(len(missing), 'planned site')}, first {missing[0]}"


def _write_tensors(capture: Capture, out: Path, *, aprt: bool, replace: bool) -> None:
    if aprt:
        write_aprt(capture, out, replace_tree=replace)
    else:
        write_bundle(capture, out, replace=replace)


@dataclass(frozen=True)
class Watched:
    """A session that tells on the terminal how far it has come, once it has taken a while."""

    session: Session

    @property
    def layer_count(self) -> int:
        """See ``Session``."""
        return self.session.layer_count

    @property
    def stages(self) -> tuple[str, ...]:
        """See ``Session``."""
        return self.session.stages

    def __getattr__(self, name: str) -> Any:
        """Return what a session may have and need not: what it understands, which sites it has."""
        return getattr(self.session, name)

    def identity(self) -> Identity:
        """See ``Session``."""
        return self.session.identity()

    def encode(self, text: str) -> tuple[int, ...]:
        """See ``Session``."""
        return self.session.encode(text)

    def run(self, inputs: TokenInputs, plan: Plan, sink: Sink) -> Answer:
        """See ``Session``; a line is kept up to date on the standard error output."""
        progress = Progress(total=len(plan.sites(self.layer_count)))

        try:
            return self.session.run(inputs, plan, Told(sink, progress))
        finally:
            progress.end()


class Told:
    """A sink that counts what it passes on to another, and takes it as that one does."""

    def __init__(self, sink: Sink, progress: Progress) -> None:
        self._sink, self._progress = sink, progress

    def __getattr__(self, name: str) -> Any:
        """Return what a sink may say of itself and need not: see ``Sink``."""
        return getattr(self._sink, name)

    def __call__(self, site: Site, tensor: CapturedTensor, /) -> None:
        """Take one tensor."""
        self._sink(site, tensor)
        self._progress.step(site)


class Progress:
    """One line that shows how many sites have arrived.

    Args:
        total: how many there will be.
        clock: seconds; for tests.
    """

    def __init__(self, *, total: int, clock: Callable[[], float] = monotonic) -> None:
        self._total = total
        self._clock = clock
        self._seen = 0
        self._shown_at = clock()
        self._is_shown = False

    def step(self, site: Site) -> None:
        """Count one site."""
        self._seen += 1
        wait = QUIET_SECONDS / 10 if self._is_shown else QUIET_SECONDS
        if self._clock() - self._shown_at >= wait:
            self._is_shown, self._shown_at = True, self._clock()
            sys.stderr.write(f"\r  {self._seen} of {number_of(self._total, 'site')}, {site}\033[K")
            sys.stderr.flush()

    def end(self) -> None:
        """Take the line away."""
        if self._is_shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def _plan(wanted: Wanted) -> Plan:
    names = None if wanted.stages == ALL else map(canonical, wanted.stages.split(","))
    return Plan(
        stages=None if names is None else in_order(names),
        layers=_layers(wanted.layers),
        positions=_positions(wanted.positions),
        decode_steps=wanted.decode_steps,
    )


def _layers(text: str) -> tuple[int, ...] | None:
    numbers = [each.strip() for each in text.split(",")]
    if all(each.isdecimal() for each in numbers):
        return parse_layers([int(each) for each in numbers])
    return parse_layers(text)


def _positions(text: str) -> tuple[int, ...] | None:
    numbers = [each.strip() for each in text.split(",")]
    if all(each.removeprefix("-").isdecimal() for each in numbers):
        return parse_positions([int(each) for each in numbers])
    return parse_positions(text)


def ids(option: str, text: str) -> tuple[int, ...]:
    """Return the token ids that an option gives.

    Raises:
        ContractError: when they are no numbers with commas between.
    """
    numbers = [each.strip() for each in text.split(",")]
    if not all(each.isdecimal() for each in numbers):
        msg = f"{option} {text} are no token ids"
        raise ContractError(msg, expected="numbers with commas between: 3838,374,220")
    return tuple(map(int, numbers))


def _inputs(wanted: Wanted, session: Session) -> TokenInputs:
    name, value = wanted.fed
    forced = ids("--forced", wanted.forced) if wanted.forced else ()
    if name == "tokens":
        value = ids("--tokens", value)
    elif name == "file":
        value = str(value.resolve())
    spec = InputSpec(**{"name": name, "line": 0, "forced": forced, name: value})
    return token_inputs(spec, session, Path.cwd())


def _options(wanted: Wanted) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in wanted.options:
        name, equals, value = each.partition("=")
        if not equals:
            msg = f"--option {each} gives no value"
            raise ContractError(msg, expected="name=value, for example dtype=bfloat16")
        found[name] = parse(value.encode(), Path(f"--option {name}")).data
    known = dict(engine(wanted.engine).options)
    shape = Shape({"type": "object", "additionalProperties": False, "properties": known})
    for problem in shape.violations(found):
        expected = f"{yaml_path(problem.at)}: {problem.expected}"
        raise ContractError(problem.what, expected=expected, remedy=problem.remedy)
    return found
