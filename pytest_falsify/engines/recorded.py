"""The recorded engine: captures on disk stand for the run that they were made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_falsify.captures.bundle import is_bundle
from pytest_falsify.captures.folder import read_captures
from pytest_falsify.captures.unstated import states_inputs
from pytest_falsify.engines.base import Answer
from pytest_falsify.engines.dimensions import Dimensions
from pytest_falsify.engines.model_path import model_digest, model_path
from pytest_falsify.engines.tokenizer import AS_TOKENS, encode
from pytest_falsify.errors import Blocked, CaptureError, ContractError, FalsifyError
from pytest_falsify.stages.vocabulary import STAGES
from pytest_falsify.words import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_falsify.captures.capture import Capture, Identity, TokenInputs
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.engines.base import Sink

RECORDED = "recorded"
"""The setting of an identity whose capture is not proven to be of what is here today."""


def is_replay(identity: Identity) -> bool:
    """Tell whether a capture was replayed and is not proven to be of what is here today."""
    return RECORDED in identity.settings


class RecordedEngine:
    """Replays bundles, and APRT trees that have a manifest."""

    name: ClassVar[str] = "recorded"
    replays: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Any]] = {
        "bundle": {
            "type": "string",
            "minLength": 1,
            "description": "a capture, or a folder of captures, one for each input; relative to "
            "the contract",
        },
    }

    def load(
        self, target: Target, spec: CaptureSpec, *, root: Path, device: str
    ) -> RecordedSession:
        """Read the captures and check every digest; see ``Engine.load``."""
        del device
        captures = _captures(spec, root)
        identities = {each.identity.digest: each.identity for each in captures}
        if len(identities) > 1:
            msg = f"capture `{spec.name}`: its bundles are of {len(identities)} different subjects"
            raise CaptureError(msg, expected="bundles of one engine, model and device")
        model = _model(target, root)
        identity = captures[0].identity
        if not _is_todays(identity, model):
            settings = {**identity.settings, RECORDED: "not proven to be of what is here today"}
            identity = replace(identity, settings=settings)
        return RecordedSession(
            name=spec.name, captures=captures, model=model, recorded_identity=identity
        )


def _captures(spec: CaptureSpec, root: Path) -> tuple[Capture, ...]:
    if "bundle" not in spec.options:
        msg = f"capture `{spec.name}` does not say what was recorded"
        raise ContractError(msg, expected="`bundle`: a folder that `pytest-falsify capture` wrote")
    folder = (root / spec.options["bundle"]).resolve()
    if not folder.is_dir():
        msg = f"capture `{spec.name}`: there is no recording at {spec.options['bundle']}"
        raise Blocked(msg, remedy=f"pytest-falsify capture MODEL --out {spec.options['bundle']}")
    is_one = is_bundle(folder)
    folders = [folder] if is_one else sorted(each.parent for each in folder.glob("*/manifest.json"))
    found = tuple(read_captures(each) for each in folders)
    if not found or not all(states_inputs(each) for each in found):
        msg = f"capture `{spec.name}`: its recording does not state what the model was fed"
        raise CaptureError(msg, path=folder, expected="bundles, or folders of bundles")
    return found


def _model(target: Target, root: Path) -> Path | None:
    """Return the model where it is here: a recording is replayed without it, too."""
    try:
        return model_path(target, root)
    except FalsifyError:
        return None


def _is_todays(identity: Identity, model: Path | None) -> bool:
    """Tell whether what was recorded is, by all its digests, what would run here today."""
    if model is None or not identity.versions or identity.weights != model_digest(model):
        return False
    return all(_installed(name) == recorded for name, recorded in identity.versions.items())


def _installed(name: str) -> str | None:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSession:
    """Captures of one subject; nothing runs."""

    understands: ClassVar[frozenset[str]] = frozenset({"forced"})
    name: str
    captures: tuple[Capture, ...]
    model: Path | None
    recorded_identity: Identity

    @property
    def layer_count(self) -> int:
        """The model's decoder layers; without the model, as many as were recorded."""
        if self.model is not None and (self.model / "config.json").is_file():
            return Dimensions.of_folder(self.model).layers
        sites = (site for each in self.captures for site in (*each.tensors, *each.missing))
        return 1 + max((site.layer for site in sites if site.layer is not None), default=0)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that were recorded."""
        seen = {site.stage for each in self.captures for site in each.tensors}
        return tuple(name for name in STAGES if name in seen)

    def identity(self) -> Identity:
        """Return what ran when it was recorded, and whether that is proven to be today's."""
        return self.recorded_identity

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, with the tokenizer of the target's model."""
        if self.model is None:
            msg = f"capture `{self.name}`: a text needs the model's tokenizer, which is not here"
            raise CaptureError(msg, remedy=AS_TOKENS)
        return encode(self.model, text)

    def run(self, inputs: TokenInputs, plan: Plan, sink: Sink) -> Answer:
        """Hand out what was recorded of these tokens; what was not is missing."""
        recorded = self._of(inputs)
        steps = plan.decode_steps
        if steps > recorded.plan.decode_steps:
            known = number_of(recorded.plan.decode_steps, "step")
            msg = f"capture `{self.name}` was recorded with {known}"
            raise CaptureError(msg, expected=number_of(steps, "decode step"))
        for site in plan.sites(self.layer_count):
            if site in recorded.tensors:
                sink(site, recorded.tensors[site])
        return Answer(
            logits=recorded.logits[: steps + 1],
            continuation=recorded.continuation[:steps],
            shortlists=recorded.shortlists and recorded.shortlists[: steps + 1],
            caveats=recorded.caveats,
        )

    def _of(self, inputs: TokenInputs) -> Capture:
        found = [each for each in self.captures if each.inputs.digest == inputs.digest]
        if not found:
            recorded = ", ".join(each.inputs.name for each in self.captures)
            msg = f"capture `{self.name}` was not recorded on input `{inputs.name}`"
            raise CaptureError(msg, expected=f"the tokens of one of: {recorded}")
        return found[0]
