"""The command engine: any program that runs a model and writes APRT, safetensors or npy files."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.captures.capture import Identity
from pytest_falsify.engines.dimensions import Dimensions
from pytest_falsify.engines.model_path import model_digest, model_path
from pytest_falsify.engines.placeholders import filled, mentions, must_be_placeholders
from pytest_falsify.engines.prefill import UNDERSTANDS, run_by_prefill, seeing
from pytest_falsify.engines.process import Finished, run
from pytest_falsify.engines.sources import must_be_there, repository, sources_digest
from pytest_falsify.engines.tokenizer import encode
from pytest_falsify.engines.written import FORMATS, read_written
from pytest_falsify.errors import Blocked, CaptureError, ContractError
from pytest_falsify.stages.vocabulary import STAGES, canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.captures.capture import CapturedTensor, TokenInputs
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.engines.base import Answer, Sink
    from pytest_falsify.stages.vocabulary import Site

SECONDS = 600.0
COULD_NOT_START = (126, 127)
"""A shell's own words for a program that cannot be executed, or is not there."""
_TEXT: Mapping[str, Any] = {"type": "string", "minLength": 1}
_LIST: Mapping[str, Any] = {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True}


class CommandEngine:
    """Runs a program once for each sequence, in a shell, from the root of the repository."""

    name: ClassVar[str] = "command"
    runs_commands: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Any]] = {
        "run": {
            **_TEXT,
            "description": "what a shell runs; {model} {tokens} {stages} {layers} {out} are filled "
            "in, lists with commas between",
        },
        "stages": {**_LIST, "description": "the stages that it promises to write when asked"},
        "version": {**_TEXT, "description": "a command that prints the program's version"},
        "sources": {
            **_LIST,
            "description": "globs, relative to the repository, of the files that the program is "
            "made of: when one changes, what it showed is stale",
        },
        "timeout": {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": f"seconds after which it is stopped; {SECONDS:g}",
        },
        "cwd": {**_TEXT, "description": "the working directory, relative to the repository"},
        "out": {
            **_TEXT,
            "description": "the folder that it writes to, relative to the working directory, where "
            "it cannot be told by {out}",
        },
        "format": {"enum": sorted(FORMATS), "description": "what it writes; any, when left out"},
        "layer_count": {
            "type": "integer",
            "minimum": 1,
            "description": "decoder layers, where the model has no config.json to tell",
        },
        "provide": {**_TEXT, "description": "the command that builds or installs the program"},
    }

    def load(self, target: Target, spec: CaptureSpec, *, root: Path, device: str) -> CommandSession:
        """Find the model and ask the program for its version; see ``Engine.load``.

        Nothing here asks for permission: whoever makes captures does, before this is called.
        """
        _must_be_whole(spec)
        model = model_path(target, root)
        program = Program.of(spec, repository(root / "contract"))
        dimensions = Dimensions.of_folder(model) if (model / "config.json").is_file() else None
        layers = spec.options.get("layer_count") or (dimensions and dimensions.layers)
        if not layers:
            msg = f"capture `{spec.name}`: {target.model} does not tell how many layers it has"
            raise ContractError(msg, expected="`layer_count`, or a model with config.json")
        return CommandSession(
            program=program,
            model=model,
            dimensions=dimensions,
            layer_count=layers,
            stages=_promised(spec),
            version=program.version(),
            weights=model_digest(model),
            device=device.partition(":")[0],
        )


def _must_be_whole(spec: CaptureSpec) -> None:
    options = spec.options
    command = options.get("run")
    if not command or not options.get("stages"):
        msg = f"capture `{spec.name}` does not say what to run, or which stages it shows"
        raise ContractError(msg, expected="`run` and `stages`")
    if "version" not in options and "sources" not in options:
        msg = f"capture `{spec.name}` does not say which program it is"
        raise ContractError(
            msg,
            expected="`version` or `sources`, best both",
            remedy="without them, what an older build showed would pass for today's",
        )
    must_be_placeholders(command)
    needed = [name for name in ("model", "tokens") if not mentions(command, name)]
    if "out" not in options and not mentions(command, "out"):
        needed.append("out")
    if needed:
        msg = f"capture `{spec.name}`: `run` has no {', '.join(f'{{{each}}}' for each in needed)}"
        raise ContractError(msg, expected="{model} {tokens} {out}, and best {stages} {layers}")


def _promised(spec: CaptureSpec) -> tuple[str, ...]:
    named = {canonical(each) for each in spec.options["stages"]}
    return tuple(name for name in STAGES if name in named)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program on this machine.

    Attributes:
        name: the capture's.
        root: the repository.
        folder: the working directory.
        options: the capture's.
        sources: the digest of its declared sources.
    """

    name: str
    root: Path
    folder: Path
    options: Mapping[str, Any]
    sources: str | None

    @classmethod
    def of(cls, spec: CaptureSpec, root: Path) -> Program:
        """Return the program of a capture.

        Raises:
            ContractError: when a glob of its sources finds nothing.
        """
        globs = spec.options.get("sources", ())
        must_be_there(root, globs, spec.name)
        return cls(
            name=spec.name,
            root=root,
            folder=root / spec.options.get("cwd", "."),
            options=spec.options,
            sources=sources_digest(root, globs),
        )

    def version(self) -> str | None:
        """Return the first line that its version command prints; None where it has none.

        Raises:
            Blocked: when there is no such program.
            CaptureError: when it fails, or prints nothing.
        """
        command = self.options.get("version")
        if command is None:
            return None
        text = self._run(command).output.text.strip()
        if not text:
            msg = f"capture `{self.name}`: its version command prints nothing"
            raise CaptureError(msg, expected=f"a version on the standard output of `{command}`")
        return text.splitlines()[0]

    def written_by(self, values: Mapping[str, str], out: Path) -> tuple[Path, int]:
        """Run it; return the folder that it wrote to, and when it was started (file system's ns).

        Raises:
            Blocked: when there is no such program.
            CaptureError: when it fails or takes too long.
        """
        marker = out.with_name("started")
        marker.touch()
        self._run(filled(self.options["run"], {**values, "out": str(out)}))
        folder = self.folder / self.options["out"] if "out" in self.options else out
        return folder, marker.stat().st_mtime_ns

    def _run(self, command: str) -> Finished:
        seconds = self.options.get("timeout", SECONDS)
        done = run(command, folder=self.folder, seconds=seconds)
        if done.exit == 0:
            return done
        told = f": {done.last_line}" if done.last_line else ""
        if done.exit in COULD_NOT_START:
            msg = f"capture `{self.name}`: its program is not here{told}"
            remedy = self.options.get("provide", "build or install what `run` names")
            raise Blocked(msg, remedy=remedy)
        if done.exit is None:
            msg = f"capture `{self.name}`: the program did not end within {seconds:g} s"
            raise CaptureError(msg, remedy="give it more time with `timeout`, or mend it")
        msg = f"capture `{self.name}`: the program ended with status {done.exit}{told}"
        raise CaptureError(msg, expected="status 0", remedy=f"try it: {command}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSession:
    """A program and a model; each run is a process of its own."""

    understands: ClassVar[frozenset[str]] = UNDERSTANDS
    program: Program
    model: Path
    dimensions: Dimensions | None
    layer_count: int
    stages: tuple[str, ...]
    version: str | None
    weights: str
    device: str

    def identity(self) -> Identity:
        """Return what runs here: the command as it was written, its version and its sources."""
        settings = {"run": self.program.options["run"]}
        if self.program.sources:
            settings["sources"] = self.program.sources
        return Identity(
            engine=CommandEngine.name,
            versions={"program": self.version} if self.version else {},
            weights=self.weights,
            settings=settings,
            device=self.device,
        )

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, with the tokenizer in the model's folder."""
        return encode(self.model, text)

    def run(self, inputs: TokenInputs, plan: Plan, sink: Sink) -> Answer:
        """Run the program once, and once more for each decode step."""
        forward = seeing(
            self._shown,
            plan,
            who=f"capture `{self.program.name}`",
            stages=self.stages,
            layer_count=self.layer_count,
        )
        return run_by_prefill(inputs, plan, sink, forward)

    def _shown(self, tokens: tuple[int, ...], plan: Plan) -> dict[Site, CapturedTensor]:
        sites = plan.sites(self.layer_count)
        layers = sorted({site.layer for site in sites if site.layer is not None})
        values = {
            "model": str(self.model),
            "tokens": ",".join(map(str, tokens)),
            "stages": ",".join(dict.fromkeys(site.stage for site in sites)),
            "layers": ",".join(map(str, layers)),
        }
        with tempfile.TemporaryDirectory(prefix="falsify-") as folder:
            out = Path(folder) / "out"
            out.mkdir()
            written, since = self.program.written_by(values, out)
            return read_written(
                written,
                sites,
                tokens=tokens,
                dimensions=self.dimensions,
                since_ns=since,
                form=self.program.options.get("format"),
            )
