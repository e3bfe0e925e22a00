"""The python engine: a function that runs a model, from a conftest or an installed package."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pytest_falsify.captures.capture import CapturedTensor, Identity, TokenInputs
from pytest_falsify.captures.folder import site_named
from pytest_falsify.captures.unstated import FLAT
from pytest_falsify.engines.dimensions import Dimensions
from pytest_falsify.engines.model_path import model_digest, model_path
from pytest_falsify.engines.prefill import UNDERSTANDS, run_by_prefill, seeing
from pytest_falsify.engines.tokenizer import encode
from pytest_falsify.engines.weight_digests import file_digest
from pytest_falsify.engines.written import shaped
from pytest_falsify.errors import Blocked, CaptureError, ContractError
from pytest_falsify.stages.vocabulary import STAGES, Site, canonical
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.engines.base import Answer, Sink

GROUP = "pytest_falsify.python_engines"
Run = Callable[..., Mapping[Any, Any]]
"""``run(inputs, plan)``: the arrays of a prefill by site; a parameter ``model`` gets the path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonFunction:
    """A function that runs a model, and what it says of itself.

    Attributes:
        stages: the stages that it shows, in execution order.
        layer_count: decoder layers; None: those of the model's config.json.
    """

    name: str
    run: Run
    version: str
    stages: tuple[str, ...]
    layer_count: int | None = None


_REGISTERED: dict[str, PythonFunction] = {}


def python_engine(
    name: str, *, version: str, stages: Sequence[str], layer_count: int | None = None
) -> Callable[[Run], PythonFunction]:
    """Make an engine of a function ``run(inputs, plan) -> {site: array}``.

    In a conftest the decorator alone registers it; a package names the decorated object under the
    entry-point group ``pytest_falsify.python_engines``.

    Args:
        name: what ``call:`` names in a capture.
        version: part of the subject's identity.
        stages: the stages that it shows when asked.
        layer_count: decoder layers, where the model has no config.json to tell.

    Raises:
        FalsifyError: when a stage is unknown.
    """
    named = {canonical(each) for each in stages}

    def decorate(run: Run) -> PythonFunction:
        ordered = tuple(each for each in STAGES if each in named)
        made = PythonFunction(
            name=name, run=run, version=version, stages=ordered, layer_count=layer_count
        )
        _REGISTERED[name] = made
        return made

    return decorate


class PythonEngine:
    """Runs a function that somebody decorated with ``python_engine``."""

    name: ClassVar[str] = "python"
    options: ClassVar[Mapping[str, Any]] = {
        "call": {
            "type": "string",
            "minLength": 1,
            "description": "the name that the function was given by `python_engine`",
        },
    }

    def load(self, target: Target, spec: CaptureSpec, *, root: Path, device: str) -> PythonSession:
        """Find the function and the model; see ``Engine.load``."""
        function = _function(spec)
        model = model_path(target, root)
        dimensions = Dimensions.of_folder(model) if (model / "config.json").is_file() else None
        layers = function.layer_count or (dimensions and dimensions.layers)
        if not layers:
            msg = f"engine `{function.name}`: {target.model} does not tell how many layers it has"
            raise ContractError(msg, expected="`layer_count=` of python_engine, or config.json")
        return PythonSession(
            function=function,
            model=model,
            dimensions=dimensions,
            layer_count=layers,
            weights=model_digest(model),
            device=device.partition(":")[0],
        )


def _function(spec: CaptureSpec) -> PythonFunction:
    name = spec.options.get("call")
    if not name:
        msg = f"capture `{spec.name}` does not say which function runs the model"
        raise ContractError(msg, expected="`call`: a name given to pytest_falsify.python_engine")
    if name in _REGISTERED:
        return _REGISTERED[name]
    offered = {each.name: each for each in entry_points(group=GROUP)}
    if name not in offered:
        known = ", ".join(sorted({*_REGISTERED, *offered})) or "none is registered"
        msg = f"capture `{spec.name}`: there is no python engine `{name}` here; known: {known}"
        remedy = "install the package that has it, or decorate it in a conftest beside the contract"
        raise Blocked(msg, remedy=remedy)
    found = offered[name].load()
    if not isinstance(found, PythonFunction):
        msg = f"the entry point `{name}` is a {type(found).__name__}"
        raise ContractError(msg, expected="a function decorated with pytest_falsify.python_engine")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonSession:
    """A function and a model; each run calls it once."""

    understands: ClassVar[frozenset[str]] = UNDERSTANDS
    function: PythonFunction
    model: Path
    dimensions: Dimensions | None
    layer_count: int
    weights: str
    device: str

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that the function shows."""
        return self.function.stages

    def identity(self) -> Identity:
        """Return what runs here: the function's version and the digest of its file."""
        source = inspect.getsourcefile(self.function.run)
        settings = {"call": self.function.name}
        if source is not None:
            settings["source"] = file_digest(Path(source))
        return Identity(
            engine=PythonEngine.name,
            versions={self.function.name: self.function.version},
            weights=self.weights,
            settings=settings,
            device=self.device,
        )

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, with the tokenizer in the model's folder."""
        return encode(self.model, text)

    def run(self, inputs: TokenInputs, plan: Plan, sink: Sink) -> Answer:
        """Call the function once, and once more for each decode step."""
        forward = seeing(
            lambda tokens, asked: self._called(TokenInputs(name=inputs.name, tokens=tokens), asked),
            plan,
            who=f"engine `{self.function.name}`",
            stages=self.stages,
            layer_count=self.layer_count,
        )
        return run_by_prefill(inputs, plan, sink, forward)

    def _called(self, inputs: TokenInputs, plan: Plan) -> dict[Site, CapturedTensor]:
        run = self.function.run
        takes_model = "model" in inspect.signature(run).parameters
        result = run(inputs, plan, model=self.model) if takes_model else run(inputs, plan)
        arrays = {self._site(key): np.array(value) for key, value in result.items()}
        wanted = plan.sites(self.layer_count)
        missing = [str(site) for site in wanted if site not in arrays]
        if missing:
            sites = number_of(len(missing), "site")
            msg = f"engine `{self.function.name}` did not return {sites} that it shows"
            raise CaptureError(msg, expected=f"{missing[0]} among what it returns")
        return {
            site: shaped(site, _tensor(arrays[site], site), len(inputs.tokens), self.dimensions)
            for site in wanted
        }

    def _site(self, key: Any) -> Site:
        site = key if isinstance(key, Site) else site_named(str(key))
        if site is None:
            msg = f"engine `{self.function.name}` returned `{key}`, which is no site"
            raise CaptureError(msg, expected="step/layer/stage, for example 0/3/attn_out")
        return site


def _tensor(array: np.ndarray[Any, Any], site: Site) -> CapturedTensor:
    dims = STAGES[site.stage].dims
    if array.ndim != len(dims.split()):
        return CapturedTensor(array=array.reshape(-1), dims=FLAT, positions=())
    tokens = array.shape[dims.split().index("t")]
    return CapturedTensor(array=array, dims=dims, positions=tuple(range(tokens)))
