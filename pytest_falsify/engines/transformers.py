"""The transformers engine: a model loaded, run, and otherwise left alone."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.captures.capture import Identity
from pytest_falsify.engines.activations import Q8, round_activations
from pytest_falsify.engines.arena import Arena
from pytest_falsify.engines.checkpoint import load_model
from pytest_falsify.engines.forward import LEFT, RIGHT, Batch, Forward, beside
from pytest_falsify.engines.grafting import written
from pytest_falsify.engines.model_files import model_folder, weights_digest
from pytest_falsify.engines.observer import Watch
from pytest_falsify.engines.planted import SCHEMA as PLANT
from pytest_falsify.engines.planted import planted
from pytest_falsify.engines.rounding import Rounding
from pytest_falsify.engines.tokenizer import encode
from pytest_falsify.engines.visible import Visible
from pytest_falsify.errors import Blocked, CaptureError
from pytest_falsify.stages.rounded import SCHEMES, round_matrices
from pytest_falsify.stages.threads import computing_with
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_falsify.captures.capture import TokenInputs
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.engines.base import Answer, Sink
    from pytest_falsify.engines.grafting import Write
    from pytest_falsify.stages.vocabulary import Site

INSTALL = "pip install 'pytest-falsify[hf]'"
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""What configurations of transformers call the number of a mixture's experts."""
DEFAULTS: dict[str, Any] = {
    "dtype": "float32",
    "attention": "eager",
    "experts": None,
    "threads": 1,
    "config": {},
    "rounding": {},
    "batch": {},
    "plant": {},
}


class TransformersEngine:
    """Runs any causal language model of transformers, without its remote code."""

    name: ClassVar[str] = "transformers"
    options: ClassVar[Mapping[str, Any]] = {
        "dtype": {"enum": ["float32", "bfloat16", "float16", "float64"]},
        "attention": {"enum": ["eager", "sdpa", "flash_attention_2"]},
        "experts": {
            "enum": ["eager", "batched_mm", "grouped_mm"],
            "description": "what computes the experts of a mixture; transformers' own choice by "
            "default",
        },
        "threads": {
            "type": "integer",
            "minimum": 1,
            "description": "CPU threads; one by default, so that the same bits come on any machine",
        },
        "rounding": {
            "type": "object",
            "description": "disturb the run as rounding to a dtype would: a control by Monte Carlo",
            "properties": {
                "dtype": {"enum": ["bfloat16", "float16", "float32"]},
                "seed": {"type": "integer", "minimum": 0},
            },
            "required": ["dtype"],
            "additionalProperties": False,
        },
        "batch": {
            "type": "object",
            "description": "run the input as the first of a batch, beside longer ones made of its "
            "own tokens; its rows are shown without the padding",
            "properties": {
                "size": {"type": "integer", "minimum": 2, "maximum": 1024},
                "padding": {"enum": [LEFT, RIGHT]},
            },
            "required": ["size"],
            "additionalProperties": False,
        },
        "activations": {
            "enum": [Q8],
            "description": "round what goes into each product to blocks of 8 bits, as engines with "
            "quantised weights do: a control for them",
        },
        "rounded_weights": {
            "enum": list(SCHEMES),
            "description": "round the matrices of the layers to a dtype, or to whole numbers with "
            "a scale for each row or group of 32: for engines with quantised weights",
        },
        "plant": PLANT,
        "config": {
            "type": "object",
            "description": "overrides of the model's configuration, merged key by key",
        },
    }

    def load(
        self, target: Target, spec: CaptureSpec, *, root: Path, device: str
    ) -> TransformersSession:
        """Load the target's model; see ``Engine.load``."""
        if find_spec("torch") is None or find_spec("transformers") is None:
            msg = "engine transformers: torch and transformers are not installed"
            raise Blocked(msg, remedy=INSTALL)
        settings = {**DEFAULTS, **spec.options}
        if settings["batch"]:
            settings["batch"] = {"padding": LEFT, **settings["batch"]}
        folder = model_folder(target, root)
        weights = weights_digest(folder)
        model = load_model(folder, settings, device)
        if settings["experts"]:
            _set_experts(model, settings["experts"])
        if "rounded_weights" in settings:
            round_matrices(model, settings["rounded_weights"])
        if settings.get("activations") == Q8:
            round_activations(model)
        rounding = Rounding(**settings["rounding"]) if settings["rounding"] else None
        if rounding:
            rounding.disturb_weights(model)
        return TransformersSession(
            model=model,
            folder=folder,
            settings=settings,
            weights=weights,
            device=device,
            rounding=rounding,
        )


def _set_experts(model: Any, implementation: str) -> None:
    config = model.config
    if not any(hasattr(config, name) for name in EXPERT_COUNTS):
        msg = f"model type `{config.model_type}` has no experts"
        raise CaptureError(msg, remedy="leave `experts` out")
    model.set_experts_implementation(implementation)


@dataclass(kw_only=True)
class TransformersSession:
    """A model of transformers on one device."""

    model: Any
    folder: Path
    settings: Mapping[str, Any]
    weights: str
    device: str
    rounding: Rounding | None = None
    writes: Mapping[Site, Write] = field(default_factory=dict)
    arena: Arena = field(default_factory=Arena)
    _watches: dict[Plan, Watch] = field(default_factory=dict, repr=False)
    understands: ClassVar[frozenset[str]] = frozenset({"forced", "positions"})

    @property
    def is_identity_complete(self) -> bool:
        """Whether the identity covers all that decides the numbers; it says nothing of writes."""
        return not self.writes

    @property
    def layer_count(self) -> int:
        """The number of decoder layers."""
        return int(self.model.config.num_hidden_layers)

    @property
    def stages(self) -> tuple[str, ...]:
        """The canonical stages that ``all`` means, in execution order.

        They come with every attention and cost no arithmetic; ``on_request`` are the others.
        """
        return self.visible.always

    @property
    def on_request(self) -> tuple[str, ...]:
        """The canonical stages that are shown when they are asked for by name."""
        return self.visible.on_request

    @cached_property
    def visible(self) -> Visible:
        """What can be seen of the model."""
        return Visible.of(self.model, self.settings["attention"])

    def has(self, site: Site) -> bool:
        """Tell whether the model has a site: its layers may be of different kinds."""
        return self.visible.has(site)

    def identity(self) -> Identity:
        """Return what runs here."""
        import torch

        on_cuda = self.device.startswith("cuda")
        settings = {key: value for key, value in self.settings.items() if value not in ({}, None)}
        return Identity(
            engine=TransformersEngine.name,
            versions=_versions(),
            weights=self.weights,
            settings=settings,
            device="cuda" if on_cuda else self.device,
            device_name=torch.cuda.get_device_name(self.device) if on_cuda else "CPU",
        )

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, as the model's own tokenizer makes them."""
        return encode(self.folder, text)

    def run(self, inputs: TokenInputs, plan: Plan, sink: Sink) -> Answer:
        """Prefill, then decode; hand each planned tensor to the sink.

        With the option ``batch`` the input runs beside others, and only its own rows are shown.
        """
        batch = Batch(rows=(inputs,))
        if self.settings["batch"]:
            longest = self._longest(plan)
            size, side = (self.settings["batch"][key] for key in ("size", "padding"))
            batch = beside(inputs, size=size, side=side, longest=longest)
        return self.run_batch(batch, plan, (sink,))[0]

    def run_batch(self, batch: Batch, plan: Plan, sinks: tuple[Sink, ...]) -> tuple[Answer, ...]:
        """Run several inputs as one padded batch, each with a sink that never sees padding.

        Raises:
            CaptureError: when the plan or an input does not fit the model.
        """
        for each in batch.rows:
            self.must_fit(each, plan)
        if plan.decode_steps and batch.is_padded and batch.side == RIGHT:
            msg = "decode steps cannot follow padding on the right"
            raise CaptureError(msg, remedy="padding: left")
        forward = Forward(
            model=self.model,
            device=self.device,
            batch=batch,
            plan=plan,
            watch=self.watch(plan),
            sinks=sinks,
            end=self._end(plan),
            arena=self.arena,
        )
        with self.computing():
            return forward.answers()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Let the model run as the capture asks: threads, rounding, and no gradients."""
        import torch

        disturbed = self.rounding.disturbing(self.model) if self.rounding else nullcontext()
        plant = self.settings["plant"]
        faulty = planted(self.model, self.visible.family, plant) if plant else nullcontext()
        grafted = written(self.model, self.visible.family, self.writes)
        with (
            computing_with(self.settings["threads"]),
            torch.inference_mode(),
            disturbed,
            faulty,
            grafted,
        ):
            yield

    def _end(self, plan: Plan) -> tuple[Site, int] | None:
        """Return the last planned site and how many its step has, where it is worth ending there.

        After the last layer little is left, and who asks for the answer next need not run again.
        """
        if plan.needs_answer:
            return None
        planned = filter(self.has, plan.sites(self.layer_count))
        sites = [each for each in planned if each.step == plan.decode_steps]
        if not sites or sites[-1].layer in {None, self.layer_count - 1}:
            return None
        return sites[-1], len(sites)

    def _longest(self, plan: Plan) -> int | None:
        limit = getattr(self.model.config, "max_position_embeddings", None) or -1
        return limit - plan.decode_steps if limit > 0 else None  # XLNet states -1

    def watch(self, plan: Plan) -> Watch | None:
        """Return where the stages of a plan are observed; None where nothing is asked for.

        Raises:
            CaptureError: when a stage cannot be shown.
        """
        if plan.stages == ():
            return None
        if plan not in self._watches:
            for stage in plan.named_stages:
                self.visible.must_show(stage, self.settings["attention"])
            sites = filter(self.has, plan.sites(self.layer_count))
            prefill = [each for each in sites if each.step == 0]
            self._watches[plan] = Watch.of(self.visible.family, prefill)
        return self._watches[plan]

    def must_fit(self, inputs: TokenInputs, plan: Plan) -> None:
        """Refuse inputs that the model cannot take.

        Raises:
            CaptureError: when there are no tokens, too many, unknown ones, or too few forced ones.
        """
        longest = self._longest(plan)
        if not inputs.tokens:
            msg = f"input `{inputs.name}` has no tokens"
            raise CaptureError(msg, expected="at least one token")
        if longest is not None and len(inputs.tokens) > longest:
            limit = longest + plan.decode_steps
            wanted = len(inputs.tokens) + plan.decode_steps
            msg = f"input `{inputs.name}` needs {wanted} positions, the model has {limit}"
            raise CaptureError(msg, expected=f"at most {limit} tokens, decoded ones included")
        if inputs.forced and len(inputs.forced) < plan.decode_steps:
            msg = f"input `{inputs.name}` forces {number_of(len(inputs.forced), 'token')}"
            steps = number_of(plan.decode_steps, "step")
            raise CaptureError(msg, expected=f"one for each of {steps}")
        vocabulary = self.model.get_input_embeddings().num_embeddings
        if not all(0 <= token < vocabulary for token in (*inputs.tokens, *inputs.forced)):
            msg = f"input `{inputs.name}` has a token id outside the vocabulary"
            raise CaptureError(msg, expected=f"ids of 0..{vocabulary - 1}")


@cache
def _versions() -> Mapping[str, str]:
    """Return the releases of the libraries that compute; to look one up means reading a file."""
    import torch

    return {"torch": _release(torch.__version__), "transformers": version("transformers")}


def _release(full: str) -> str:
    """Return a version without its build tag: ``2.13.0+cpu`` and ``2.13.0+cu130`` are one release.

    The device, which decides which of their code runs, is digested by itself.
    """
    return full.partition("+")[0]
