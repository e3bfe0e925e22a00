"""The llama.cpp engine: a GGUF file, run as llama.cpp runs it, seen through its own callback."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.captures.capture import Identity
from pytest_falsify.engines.base import Answer
from pytest_falsify.engines.gguf_file import is_gguf
from pytest_falsify.engines.gguf_folder import float32_file
from pytest_falsify.engines.llama_library import PACKAGE, PINNED, Library, library
from pytest_falsify.engines.llama_run import Eye, Watch, context, layout_of_step
from pytest_falsify.engines.llama_stages import ALWAYS, FUSED, INSIDE, Layout, Nodes
from pytest_falsify.engines.model_path import model_path
from pytest_falsify.engines.weight_digests import file_digest
from pytest_falsify.errors import CaptureError
from pytest_falsify.stages.vocabulary import STAGES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from pytest_falsify.captures.capture import TokenInputs
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.engines.base import Sink
    from pytest_falsify.stages.vocabulary import Site

CACHES = {"float32": 0, "float16": 1}
"""``ggml_type`` of the keys and values that are kept."""
ROPE_NORMAL = 0
"""``LLAMA_ROPE_TYPE_NORM``: neighbouring channels are rotated."""
BLOCK = 256
"""A context holds a multiple of so many tokens."""
_DEFAULTS: dict[str, Any] = {
    "attention": "eager",
    "cache": "float32",
    "weights": "own",
    "repack": False,
    "rope_base": None,
    "threads": 1,
}


class LlamaCppEngine:
    """Runs a GGUF file on the CPU with the llama.cpp of a pinned wheel."""

    name: ClassVar[str] = "llama.cpp"
    options: ClassVar[Mapping[str, Any]] = {
        "attention": {
            "enum": ["eager", "flash"],
            "description": "`flash` is one operation: scores and probabilities are not shown",
        },
        "cache": {"enum": sorted(CACHES), "description": "the dtype of the keys and values kept"},
        "weights": {
            "enum": ["own", "float32"],
            "description": "`float32`: the file's weights de-quantised, so that no activation is "
            "rounded to 8 bits; what is left is the arithmetic",
        },
        "repack": {"type": "boolean", "description": "let it repack weights for this machine"},
        "rope_base": {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": "rotate with another base than the file's",
        },
        "threads": {"type": "integer", "minimum": 1, "description": "CPU threads; one by default"},
    }

    def load(
        self, target: Target, spec: CaptureSpec, *, root: Path, device: str
    ) -> LlamaCppSession:
        """Load the target's GGUF file; see ``Engine.load``."""
        settings = {**_DEFAULTS, **spec.options}
        loaded = library()
        if device != "cpu":
            msg = f"engine llama.cpp runs on the CPU here, and target `{target.name}` asks {device}"
            raise CaptureError(msg, expected="`device: cpu`")
        path = model_path(target, root)
        if not is_gguf(path):
            msg = f"target `{target.name}`: engine llama.cpp needs a GGUF file"
            raise CaptureError(msg, path=path, expected="a file that begins with `GGUF`")
        if settings["weights"] == "float32":
            path = float32_file(path, root)
        return LlamaCppSession(
            library=loaded, path=path, settings=settings, model=Model(loaded, path, settings)
        )


class Model:
    """A loaded model, freed with its last reference."""

    def __init__(self, loaded: Library, path: Path, settings: Mapping[str, Any]) -> None:
        self._library = loaded
        parameters = loaded.call("llama_model_default_params")
        parameters.n_gpu_layers = 0
        parameters.use_extra_bufts = settings["repack"]
        parameters.check_tensors = True
        loaded.log.clear()
        self.pointer = loaded.call("llama_model_load_from_file", str(path).encode(), parameters)
        if not self.pointer:
            msg = f"llama.cpp cannot load this model: {loaded.why()}"
            raise CaptureError(
                msg,
                path=path,
                expected="a whole GGUF file of an architecture that it knows",
                remedy=f"fetch or make it again; it has {path.stat().st_size} bytes now",
            )
        self.vocabulary_pointer = loaded.call("llama_model_get_vocab", self.pointer)
        self.vocabulary: int = loaded.call("llama_vocab_n_tokens", self.vocabulary_pointer)

    def __del__(self) -> None:
        if getattr(self, "pointer", None):
            self._library.call("llama_model_free", self.pointer)

    def number(self, name: str) -> int:
        """Return what ``llama_model_<name>`` tells of it."""
        return int(self._library.call(f"llama_model_{name}", self.pointer))

    def metadata(self, key: str) -> str | None:
        """Return a value of the file's metadata as text; None where there is none."""
        text = ctypes.create_string_buffer(256)
        size = self._library.call(
            "llama_model_meta_val_str", self.pointer, key.encode(), text, len(text)
        )
        return text.value.decode() if size >= 0 else None

    @property
    def layout(self) -> Layout:
        """How its values lie before anything is in the cache."""
        heads = self.number("n_head")
        length = self.metadata(f"{self.metadata('general.architecture')}.attention.key_length")
        return Layout(
            heads=heads,
            key_heads=self.number("n_head_kv"),
            head=int(length) if length else self.number("n_embd") // heads,
            is_interleaved=self.number("rope_type") == ROPE_NORMAL,
            sources=0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppSession:
    """One loaded GGUF file; each run has a context of its own."""

    understands: ClassVar[frozenset[str]] = frozenset({"forced"})
    library: Library
    path: Path
    settings: Mapping[str, Any]
    model: Model = field(repr=False)

    @property
    def layer_count(self) -> int:
        """The number of decoder layers."""
        return self.model.number("n_layer")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that ``all`` means; `qkv_bias` is among them where there are biases."""
        return tuple(name for name in ALWAYS if name not in FUSED)

    @property
    def on_request(self) -> tuple[str, ...]:
        """The stages that are shown when they are asked for by name."""
        return (*FUSED, *(INSIDE if self.settings["attention"] == "eager" else ()))

    def identity(self) -> Identity:
        """Return what runs here."""
        usual = {"rope_base": None, "weights": "own"}
        settings = {
            key: value
            for key, value in self.settings.items()
            if key not in usual or usual[key] != value
        }
        return Identity(
            engine=LlamaCppEngine.name,
            versions={PACKAGE: PINNED},
            weights=file_digest(self.path),
            settings=settings,
            device="cpu",
            device_name="CPU",
        )

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, as llama.cpp's own tokenizer makes them."""
        data = text.encode()
        room = len(data) + 8
        found = (ctypes.c_int32 * room)()
        count = self.library.call(
            "llama_tokenize",
            self.model.vocabulary_pointer,
            data,
            len(data),
            found,
            room,
            True,
            True,
        )
        if count < 0:
            msg = f"llama.cpp's tokenizer makes more than {room} tokens of {len(data)} bytes"
            raise CaptureError(msg, remedy="give the input as `tokens: [...]`")
        return tuple(found[:count])

    def run(self, inputs: TokenInputs, plan: Plan, sink: Sink) -> Answer:
        """Prefill, then decode with the cache; hand each planned tensor to the sink."""
        self._must_fit(inputs, plan)
        sites = plan.sites(self.layer_count)
        last = sites[-1] if sites and not plan.needs_answer else None
        eye = Eye() if sites else None
        logits: list[np.ndarray[Any, Any]] = []
        greedy: list[int] = []
        feed = inputs.tokens
        parameters = self._parameters(len(inputs.tokens) + plan.decode_steps, len(feed))
        model = self.model
        with context(self.library, model.pointer, parameters, model.vocabulary, eye) as running:
            for step in range(plan.decode_steps + 1):
                positions = range(running.fed, running.fed + len(feed))
                watch = self._watch(step, tuple(positions), sites, sink)
                if watch is not None:
                    watch.last = last
                if eye is not None:
                    eye.watch = watch
                found = running.feed(feed, watch)
                if found is None:
                    return Answer(logits=tuple(logits), continuation=tuple(greedy), stopped_at=last)
                logits.append(found)
                if step < plan.decode_steps:
                    greedy.append(int(found[-1].argmax()))
                    feed = (inputs.forced[step] if inputs.forced else greedy[-1],)
        return Answer(logits=tuple(logits), continuation=tuple(greedy))

    def _watch(
        self, step: int, positions: tuple[int, ...], sites: tuple[Site, ...], sink: Sink
    ) -> Watch | None:
        wanted = frozenset(site for site in sites if site.step == step)
        if not wanted:
            return None
        return Watch(
            library=self.library,
            layout=layout_of_step(self.model.layout, positions[-1] + 1),
            nodes=Nodes(step),
            wanted=wanted,
            positions=positions,
            sink=sink,
        )

    def _parameters(self, tokens: int, batch: int) -> Any:
        found = self.library.call("llama_context_default_params")
        found.n_ctx = -(-tokens // BLOCK) * BLOCK
        found.n_batch = found.n_ubatch = min(max(batch, 1), found.n_ctx)
        found.n_threads = found.n_threads_batch = self.settings["threads"]
        found.flash_attn_type = int(self.settings["attention"] == "flash")
        found.type_k = found.type_v = CACHES[self.settings["cache"]]
        found.rope_freq_base = self.settings["rope_base"] or 0.0
        return found

    def _must_fit(self, inputs: TokenInputs, plan: Plan) -> None:
        shown = {*self.stages, *self.on_request}
        for stage in plan.named_stages:
            if stage not in shown:
                msg = f"stage `{stage}` is not shown by llama.cpp with these options"
                remedy = "capture with `attention: eager`" if stage in INSIDE else None
                expected = f"one of {', '.join(name for name in STAGES if name in shown)}"
                raise CaptureError(msg, expected=expected, remedy=remedy)
        limit = self.model.number("n_ctx_train")
        wanted = len(inputs.tokens) + plan.decode_steps
        if not inputs.tokens or wanted > limit:
            msg = f"input `{inputs.name}` needs {wanted} positions, the model has {limit}"
            raise CaptureError(msg, expected="at least one token, and no more than the model has")
        if not all(0 <= token < self.model.vocabulary for token in inputs.tokens):
            msg = f"input `{inputs.name}` has a token id outside the vocabulary"
            raise CaptureError(msg, expected=f"ids of 0..{self.model.vocabulary - 1}")
