"""The engine ``disaggregated``: prefill in this process, decode in another, a transfer between.

Its sites are those of any run: step 0 is what the prefill worker computed, the step ``transfer``
the cache as it arrived, step n what the decode worker computed. ``k_cache`` and ``v_cache`` of step
0 are what the prefill worker holds for the next token.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.canonical import digest, digest_bytes
from pytest_falsify.disaggregation.caches import DYNAMIC, POISON, STATIC
from pytest_falsify.disaggregation.carriers import SOCKET, MemorySender, SocketSender
from pytest_falsify.disaggregation.process import BEGIN, DECODE, LAYERS, LISTEN, LOAD, remote
from pytest_falsify.disaggregation.transfer import SCHEMA, Transfer, runs_program
from pytest_falsify.disaggregation.worker import Feed, Worker
from pytest_falsify.engines.base import Answer
from pytest_falsify.engines.sources import must_be_there, repository, sources_digest
from pytest_falsify.engines.transformers import TransformersEngine
from pytest_falsify.errors import CaptureError, ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_falsify.captures.capture import Identity, TokenInputs
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.disaggregation.caches import LayerCache
    from pytest_falsify.disaggregation.carriers import Ticket
    from pytest_falsify.disaggregation.process import Shown
    from pytest_falsify.engines.base import Sink
    from pytest_falsify.stages.vocabulary import Site

LEGS = ("prefill", "transfer", "decode")
_SHARED = {
    name: TransformersEngine.options[name] for name in ("dtype", "attention", "threads", "config")
}
_OWN = {
    "cache": {
        "type": "object",
        "description": "how the worker keeps its cache",
        "properties": {
            "kind": {"enum": [DYNAMIC, STATIC]},
            "spare": {
                "type": "integer",
                "minimum": 0,
                "description": "the slots of a static cache beyond those that are needed",
            },
            "poison": {
                **POISON,
                "description": "fills the slots of a received static cache that hold no token",
            },
        },
        "required": ["kind"],
        "additionalProperties": False,
    },
    "setup": {
        "type": "string",
        "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        "description": "`module:function` that is given the worker's model once it is loaded",
    },
}
_CHUNK = {
    "type": "integer",
    "minimum": 1,
    "description": "prefill so many tokens at a time",
}


def _leg(properties: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": dict(properties),
        "additionalProperties": False,
    }


class DisaggregatedEngine:
    """Runs a model of transformers as two workers with a cache on its way between them."""

    name: ClassVar[str] = "disaggregated"
    options: ClassVar[Mapping[str, Any]] = {
        **_SHARED,
        "prefill": _leg(
            {**_SHARED, **_OWN, "chunk": _CHUNK}, "what the prefill worker has of its own"
        ),
        "transfer": SCHEMA,
        "decode": _leg({**_SHARED, **_OWN}, "what the decode worker has of its own"),
    }

    @staticmethod
    def runs_commands(options: Mapping[str, Any]) -> bool:
        """Tell whether a capture with these options runs a program of the user's."""
        return runs_program(options.get("transfer", {}))

    def load(
        self, target: Target, spec: CaptureSpec, *, root: Path, device: str
    ) -> DisaggregatedSession:
        """Load the prefill worker here and the decode worker in the other process.

        See ``Engine.load``.
        """
        repo = repository(root / "contract")
        transfer = Transfer(options=spec.options.get("transfer", {}), folder=repo)
        _ = transfer.codec, transfer.through
        settings = _settings(spec, repo)
        prefill = Worker.load(target, _spec_of(spec, "prefill"), root=root, device=device)
        theirs = _spec_of(spec, "decode")
        decode = {"target": target, "spec": theirs, "root": root, "device": device}
        key = repr((target.model, target.revision, str(root), device, theirs.options))
        remote().ask(LOAD, key, decode)
        return DisaggregatedSession(
            prefill=prefill,
            transfer=transfer,
            decode=decode,
            key=key,
            settings=settings,
        )


def _spec_of(spec: CaptureSpec, leg: str) -> CaptureSpec:
    """Return the capture of one worker: its own options over those that both share."""
    shared = {name: value for name, value in spec.options.items() if name not in LEGS}
    return replace(spec, options={**shared, **spec.options.get(leg, {})})


def _settings(spec: CaptureSpec, repo: Path) -> dict[str, Any]:
    """Return what decides the numbers: the options, and the digest of what the user supplied.

    Raises:
        ContractError: when a program is to transfer, and its sources are not declared or not there.
    """
    named = {
        value
        for leg in LEGS
        for name, value in spec.options.get(leg, {}).items()
        if name in {"setup", "through", "codec"} and isinstance(value, str) and ":" in value
    }
    digests = [sources_of(named)] if named else []
    if DisaggregatedEngine.runs_commands(spec.options):
        digests.append(_program_sources(spec, repo))
    if not digests:
        return dict(spec.options)
    return {**spec.options, "sources": digests[0] if len(digests) == 1 else digest(digests)}


def _program_sources(spec: CaptureSpec, repo: Path) -> str:
    globs = spec.options.get("sources", ())
    must_be_there(repo, globs, spec.name)
    found = sources_digest(repo, globs)
    if found is None:
        msg = f"capture `{spec.name}` does not say which files its transfer is made of"
        raise ContractError(
            msg,
            expected="`sources` of the capture: globs, relative to the repository",
            remedy="without them, what an older transfer showed would pass for today's",
        )
    return found


def sources_of(names: set[str]) -> str:
    """Return the digest of the files that some ``module:attribute`` are defined in."""
    from pathlib import Path

    files = {}
    for name in sorted(names):
        module = find_spec(name.partition(":")[0])
        if module is not None and module.has_location and module.origin:
            files[name] = digest_bytes(Path(module.origin).read_bytes())
    return digest(files)


@dataclass(kw_only=True)
class DisaggregatedSession:
    """Two workers of one model.

    Attributes:
        decode: how the decode worker is loaded, should it have been given up meanwhile.
        key: what the decode worker is called in its process.
    """

    prefill: Worker
    transfer: Transfer
    decode: Mapping[str, Any]
    key: str
    settings: Mapping[str, Any]
    understands: ClassVar[frozenset[str]] = frozenset({"forced", "transfer"})

    def __post_init__(self) -> None:
        self._sender: MemorySender | SocketSender | None = None
        self._port: int | None = None

    @property
    def is_identity_complete(self) -> bool:
        """Whether the identity covers all that decides the numbers: nothing of the user's runs."""
        return "sources" not in self.settings

    @property
    def layer_count(self) -> int:
        """The number of decoder layers."""
        return self.prefill.session.layer_count

    @property
    def stages(self) -> tuple[str, ...]:
        """The canonical stages that ``all`` means."""
        return self.prefill.session.stages

    @property
    def on_request(self) -> tuple[str, ...]:
        """The canonical stages that are shown when they are asked for by name."""
        return self.prefill.session.on_request

    def has(self, site: Site) -> bool:
        """Tell whether the model has a site: its layers may be of different kinds."""
        return self.prefill.session.has(site)

    def identity(self) -> Identity:
        """Return what runs here."""
        own = self.prefill.session.identity()
        return replace(own, engine=DisaggregatedEngine.name, settings=self.settings)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text."""
        return self.prefill.session.encode(text)

    def run(self, inputs: TokenInputs, plan: Plan, sink: Sink) -> Answer:
        """Prefill here, transfer the cache, decode there; hand each planned tensor to the sink."""
        self.prefill.session.must_fit(inputs, plan)
        remote().ask(LOAD, self.key, self.decode)
        self._begin()
        steps = plan.decode_steps
        prefilled = self.prefill.prefill(
            inputs.tokens,
            plan,
            sink,
            room=len(inputs.tokens) + steps,
            on_layer=self._send_one if self.transfer.is_streamed else None,
        )
        if not self.transfer.is_streamed:
            self._send(dict(enumerate(prefilled.layers)))
        first = int(prefilled.logits[-1].argmax())
        feed = Feed(
            first=inputs.forced[0] if inputs.forced and steps else first,
            start=len(inputs.tokens),
            steps=steps,
            forced=inputs.forced[:steps],
        )
        shown: Shown = remote().ask(DECODE, self.key, feed, plan)
        for site, tensor in shown.tensors.items():
            sink(site, tensor)
        if shown.decoded is None:
            return Answer(logits=(prefilled.logits,), continuation=())
        return Answer(
            logits=(prefilled.logits, *shown.decoded.logits),
            continuation=(first, *shown.decoded.greedy),
        )

    def _begin(self) -> None:
        if self._sender is None:
            if self.transfer.by == SOCKET:
                self._port = remote().ask(LISTEN)
                self._sender = SocketSender(self._port)
            else:
                self._sender = MemorySender()
            weakref.finalize(self, self._sender.close)
        self._sender.restart()
        remote().tell(BEGIN)

    def _send_one(self, layer: int, cache: LayerCache) -> None:
        self._send({layer: cache})

    def _send(self, layers: Mapping[int, LayerCache]) -> None:
        if self._sender is None:
            msg = "nothing can be sent before a run began"
            raise CaptureError(msg)
        expected = {
            layer: (each.keys.shape[0], each.keys.shape[1], each.length)
            for layer, each in layers.items()
        }
        announce = partial(_announce, self.transfer.options, expected, self._port)
        self._sender.put(self.transfer.packed(layers), announce)


def _announce(
    options: Mapping[str, Any],
    expected: Mapping[int, tuple[int, int, int]],
    port: int | None,
    ticket: Ticket,
) -> None:
    remote().tell(LAYERS, dict(options), dict(expected), port, ticket)
