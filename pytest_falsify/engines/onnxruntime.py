"""The ONNX Runtime engine: the optimised graph gives the answer, an observed copy the tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pytest_falsify.canonical import digest
from pytest_falsify.captures.capture import CapturedTensor, Identity
from pytest_falsify.captures.plan import Plan
from pytest_falsify.engines.model_files import model_folder, weights_digest
from pytest_falsify.engines.model_path import model_path
from pytest_falsify.engines.onnx_export import EXPORTERS, exported
from pytest_falsify.engines.onnx_graph import ON_REQUEST, Graph, Value
from pytest_falsify.engines.prefill import UNDERSTANDS, Seen, run_by_prefill
from pytest_falsify.engines.tokenizer import encode
from pytest_falsify.engines.weight_digests import file_digest
from pytest_falsify.errors import Blocked, CaptureError
from pytest_falsify.stages.vocabulary import STAGES, Site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_falsify.captures.capture import TokenInputs
    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.engines.base import Answer, Sink

    Array = np.ndarray[Any, Any]

INSTALL = "pip install 'pytest-falsify[onnx]'"
SUFFIX = ".onnx"
LOGITS = Site(0, None, "lm_head")
FLOOR = 1e-5
MASKS = {"attn_softmax": "zero"}
_DEFAULTS: dict[str, Any] = {"optimisation": "all", "threads": 1, "floor": FLOOR}
_LEVELS = {"all": "ORT_ENABLE_ALL", "none": "ORT_DISABLE_ALL"}
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class OnnxRuntimeEngine:
    """Runs an .onnx file, or one that is exported from a model of transformers, on the CPU."""

    name: ClassVar[str] = "onnxruntime"
    options: ClassVar[Mapping[str, Any]] = {
        "optimisation": {
            "enum": sorted(_LEVELS),
            "description": "what gives the answer: the graph with all of ONNX Runtime's rewriting, "
            "or as it was exported",
        },
        "threads": {"type": "integer", "minimum": 1, "description": "CPU threads; one by default"},
        "floor": {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": "how far the logits of the observed graph may be from the answer, as "
            f"relative L2 of the worst token; {FLOOR:g}",
        },
    }

    def load(
        self, target: Target, spec: CaptureSpec, *, root: Path, device: str
    ) -> OnnxRuntimeSession:
        """Load the target's .onnx file, or export its model; see ``Engine.load``."""
        for name in ("onnxruntime", "onnx"):
            if find_spec(name) is None:
                msg = f"engine onnxruntime: {name} is not installed"
                raise Blocked(msg, remedy=INSTALL)
        if device != "cpu":
            msg = f"engine onnxruntime runs on the CPU here, and `{target.name}` asks {device}"
            raise CaptureError(msg, expected="`device: cpu`")
        settings = {**_DEFAULTS, **spec.options}
        path = model_path(target, root)
        is_file = path.suffix == SUFFIX
        if not is_file and find_spec("onnxscript") is None:
            msg = "engine onnxruntime: onnxscript, which exports models, is not installed"
            raise Blocked(msg, remedy=INSTALL)
        folder = path.parent if is_file else model_folder(target, root)
        file = path if is_file else exported(folder, root)
        graph = Graph(read_model(file))
        if not graph.places:
            msg = "no node of this graph says which module it was traced in"
            raise CaptureError(
                msg, path=file, expected="a graph that torch.onnx.export(dynamo=True) made"
            )
        return OnnxRuntimeSession(
            file=file,
            folder=folder,
            graph=graph,
            settings=settings,
            weights=_file_weights(file) if is_file else weights_digest(folder),
            versions=_versions(() if is_file else EXPORTERS),
            answering=_session(file, None, settings["optimisation"], settings["threads"]),
        )


def read_model(file: Path) -> Any:
    """Return the graph of an ONNX file without its weights.

    Raises:
        CaptureError: when it is no whole ONNX file.
    """
    import onnx

    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's own exceptions have no common base here
        msg = f"it is no whole ONNX file: {error}"
        raise CaptureError(msg, path=file, expected="an ONNX model") from error
    if not model.graph.node:
        msg = "it is no whole ONNX file: its graph is empty"
        raise CaptureError(msg, path=file, expected="an ONNX model")
    return model


def _file_weights(file: Path) -> str:
    """Return the digest of an ONNX file with the file beside it that holds its weights."""
    beside = sorted(file.parent.glob(f"{file.name}*data"))
    return digest({each.name: file_digest(each) for each in (file, *beside)})


def _versions(exporters: Sequence[str]) -> dict[str, str]:
    return {name: version(name).partition("+")[0] for name in ("onnxruntime", *exporters)}


def _session(file: Path, shown: Sequence[str] | None, optimisation: str, threads: int) -> Any:
    """Return an inference session.

    Args:
        file: the ONNX file.
        shown: values that are outputs too; None: the file as it is.
        optimisation: a key of ``_LEVELS``.
        threads: CPU threads.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, _LEVELS[optimisation]
    )
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source: Any = str(file)
    if shown is not None:
        model = read_model(file)
        there = {each.name for each in model.graph.output}
        missing = [name for name in dict.fromkeys(shown) if name not in there]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in missing)
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(file.parent))
        source = model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = f"ONNX Runtime cannot load this model: {first}"
        raise CaptureError(msg, path=file, remedy="export it again") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntimeSession:
    """One graph, loaded as it is served; the copy that shows its values is made when needed."""

    understands: ClassVar[frozenset[str]] = UNDERSTANDS
    file: Path
    folder: Path
    graph: Graph
    settings: Mapping[str, Any]
    weights: str
    versions: Mapping[str, str]
    answering: Any
    _observing: dict[tuple[str, ...], Any] = field(default_factory=dict)

    @property
    def layer_count(self) -> int:
        """The number of decoder layers."""
        return self.graph.layer_count

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that ``all`` means, in execution order."""
        return tuple(name for name in self.graph.stages if name not in ON_REQUEST)

    @property
    def on_request(self) -> tuple[str, ...]:
        """The stages that are shown when they are asked for by name."""
        return tuple(name for name in self.graph.stages if name in ON_REQUEST)

    def identity(self) -> Identity:
        """Return what runs here."""
        return Identity(
            engine=OnnxRuntimeEngine.name,
            versions=self.versions,
            weights=self.weights,
            settings=self.settings,
            device="cpu",
            device_name="CPU",
        )

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, with the tokenizer in the model's folder."""
        return encode(self.folder, text)

    def run(self, inputs: TokenInputs, plan: Plan, sink: Sink) -> Answer:
        """Run both graphs once, and once more for each decode step."""
        places = self._places(plan)

        def forward(tokens: tuple[int, ...]) -> Seen:
            if not places:
                return {}, self._answer(tokens)
            shown, observed = self._shown(tokens, places)
            if self.settings["optimisation"] == "none":
                return shown, observed
            logits = self._answer(tokens)
            self._must_agree(observed, logits)
            if LOGITS in shown:
                shown[LOGITS] = replace(shown[LOGITS], array=logits)
            return shown, logits

        return run_by_prefill(inputs, plan, sink, forward)

    def _places(self, plan: Plan) -> dict[Site, Value]:
        shown = self.graph.stages
        for stage in plan.named_stages:
            if stage not in shown:
                msg = f"stage `{stage}` is not shown by this graph"
                raise CaptureError(msg, expected=f"one of {', '.join(shown)}")
        sites = Plan(stages=plan.stages, layers=plan.layers).sites(self.layer_count)
        return {site: self.graph.places[site] for site in sites if site in self.graph.places}

    def _answer(self, tokens: tuple[int, ...]) -> Array:
        feed = {self.answering.get_inputs()[0].name: np.array([tokens], np.int64)}
        found: Array = self.answering.run(None, feed)[0][0]
        return found

    def _shown(
        self, tokens: tuple[int, ...], places: Mapping[Site, Value]
    ) -> tuple[dict[Site, CapturedTensor], Array]:
        """Return what the observed graph shows, and its own logits."""
        names = tuple(dict.fromkeys(name for each in places.values() for name in each.names))
        session = self._observer(names)
        outputs = [each.name for each in session.get_outputs()]
        feed = {session.get_inputs()[0].name: np.array([tokens], np.int64)}
        found = dict(zip(outputs, session.run(outputs, feed), strict=True))
        shown = {
            site: CapturedTensor(
                array=value.tensor(site.stage, found),
                dims=STAGES[site.stage].dims,
                positions=tuple(range(len(tokens))),
                mask=MASKS.get(site.stage, "none"),
            )
            for site, value in places.items()
        }
        return shown, found[outputs[0]][0]

    def _observer(self, names: tuple[str, ...]) -> Any:
        if names not in self._observing:
            self._observing.clear()
            made = _session(self.file, names, "none", self.settings["threads"])
            self._observing[names] = made
        return self._observing[names]

    def _must_agree(self, observed: Array, answer: Array) -> None:
        """Refuse a graph that shows other values than those that gave the answer.

        Raises:
            CaptureError: when its own logits are further from the answer than the floor.
        """
        lengths = np.linalg.norm(answer.astype(np.float64), axis=-1)
        off = np.linalg.norm(observed.astype(np.float64) - answer, axis=-1) / lengths
        if not (off <= self.settings["floor"]).all():
            msg = f"the observed graph's logits are {off.max():.1e} from the answer"
            raise CaptureError(
                msg,
                expected=f"at most {self.settings['floor']:g}: what is shown is what was computed",
                remedy="capture with `optimisation: none`, or state a larger `floor`",
            )
