"""What stands beside the tensors of a capture on disk: how they came to be, and their digests."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pytest_falsify.canonical import canonical_text, digest, parse_json
from pytest_falsify.captures.capture import Capture, CapturedTensor, Identity, TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.shortlist import shortlists_from_json, shortlists_to_json
from pytest_falsify.captures.sketch import Sketch
from pytest_falsify.captures.summary import Summary, summaries_to_json
from pytest_falsify.captures.tensor_file import array_digest, dtype_named
from pytest_falsify.contracts.problems import yaml_path
from pytest_falsify.contracts.schemas import Shape
from pytest_falsify.errors import CaptureError, FalsifyError
from pytest_falsify.stages.vocabulary import Site, canonical, in_order

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from pytest_falsify.captures.shortlist import Shortlists

    Array = np.ndarray[Any, Any]

MANIFEST = "manifest.json"
SCHEMA = "urn:pytest-falsify:schema:manifest-v1"
SAFETENSORS, APRT, STATISTICS = "safetensors", "aprt", "statistics"
AGAIN = "make the capture again"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor as the manifest describes it; ``site`` is None for logits."""

    site: Site | None
    file: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    dims: str = ""
    positions: tuple[int, ...] = ()
    mask: str = "none"
    sketch: Sketch | None = None

    def check(self, array: Array, path: Path, name: str) -> None:
        """Refuse an array that is not the one that was described.

        Raises:
            CaptureError: when dtype, shape or any bit differs.
        """
        found = f"{array.dtype.name} {list(array.shape)}"
        described = f"{self.dtype} {list(self.shape)}"
        if found != described:
            msg = f"`{name}` is {found}, and the manifest describes {described}"
            raise CaptureError(msg, path=path, remedy=AGAIN)
        if array_digest(array) != self.sha256:
            msg = f"the bytes of `{name}` are not those that were captured"
            raise CaptureError(msg, path=path, expected=self.sha256, remedy=AGAIN)

    def with_values(self, array: Array) -> CapturedTensor:
        """Return the captured tensor with its values."""
        return CapturedTensor(
            array=array,
            dims=self.dims,
            positions=self.positions,
            mask=self.mask,
            sketch=self.sketch,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All of a capture but its values.

    Attributes:
        statistics: a few numbers of each tensor, where these alone were kept.
    """

    path: Path
    package: str
    format: str
    identity: Identity
    inputs: TokenInputs
    plan: Plan
    missing: tuple[Site, ...]
    continuation: tuple[int, ...]
    tensors: tuple[StoredTensor, ...]
    logits: tuple[StoredTensor, ...]
    shortlists: Shortlists | None = None
    caveats: tuple[str, ...] = ()
    machine: str | None = None
    statistics: Mapping[Site, Summary] = field(default_factory=dict)

    def capture(self, tensors: Mapping[Site, CapturedTensor], logits: Sequence[Array]) -> Capture:
        """Return the capture with its values."""
        return Capture(
            identity=self.identity,
            inputs=self.inputs,
            plan=self.plan,
            tensors=tensors,
            logits=tuple(logits),
            continuation=self.continuation,
            missing=self.missing,
            shortlists=self.shortlists,
            caveats=self.caveats,
            machine=self.machine,
        )


def manifest_text(
    capture: Capture,
    *,
    form: str,
    files: Mapping[Site, str],
    logits: Sequence[str],
    statistics: Mapping[Site, Summary] | None = None,
) -> str:
    """Return the manifest of a capture.

    Args:
        capture: with the values as they are stored.
        form: how they are stored, ``SAFETENSORS`` or ``APRT``; not at all: ``STATISTICS``.
        files: the file that holds each site, relative to the manifest.
        logits: the file that holds each step's logits.
        statistics: what is kept in place of values.
    """
    body = {
        "schema": SCHEMA,
        "package": version("pytest-falsify"),
        "format": form,
        "identity": _ran(capture.identity),
        "inputs": _fed(capture.inputs),
        "plan": capture.plan.to_json(),
        "missing": [str(site) for site in capture.missing],
        "continuation": list(capture.continuation),
        "tensors": [
            {"site": str(site), **_described(each), **_stored(each.array, files[site])}
            for site, each in capture.tensors.items()
        ],
        "logits": [
            _stored(array, file) for array, file in zip(capture.logits, logits, strict=True)
        ],
        **_served(capture),
    }
    if statistics is not None:
        body["statistics"] = summaries_to_json(statistics)
    return canonical_text({**body, "digest": digest(body)})


def _ran(identity: Identity) -> dict[str, Any]:
    facts = {each.name: getattr(identity, each.name) for each in fields(Identity)}
    return {**facts, "digest": identity.digest}


def _served(capture: Capture) -> dict[str, Any]:
    """Return what only a server's capture has."""
    found: dict[str, Any] = {}
    if capture.shortlists is not None:
        found["shortlists"] = shortlists_to_json(capture.shortlists)
    if capture.caveats:
        found["caveats"] = list(capture.caveats)
    if capture.machine is not None:
        found["machine"] = capture.machine
    return found


def read_manifest(path: Path) -> Manifest:
    """Read a manifest and check that it is whole; nothing that it names is opened.

    Raises:
        CaptureError: when it is unreadable, of an unknown schema, edited, or names a path outside
            its folder.
    """
    try:
        body = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"the manifest cannot be read: {error}"
        raise CaptureError(msg, path=path, remedy=AGAIN) from error
    _must_fit(body, path)
    try:
        return _parsed(body, path)
    except CaptureError:
        raise
    except FalsifyError as error:
        raise CaptureError(
            error.what, path=path, expected=error.expected, remedy=error.remedy
        ) from error


def runs(positions: Sequence[int]) -> list[list[int]]:
    """Return positions as runs ``[first, end)``: a prefill of any length is one of them."""
    found: list[list[int]] = []
    for each in positions:
        if found and found[-1][1] == each:
            found[-1][1] = each + 1
        else:
            found.append([each, each + 1])
    return found


@cache
def _shape() -> Shape:
    file = resources.files("pytest_falsify.captures") / "schema" / "manifest-v1.schema.json"
    return Shape(json.loads(file.read_text(encoding="utf-8")))


def _must_fit(body: Any, path: Path) -> None:
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        found = body.get("schema") if isinstance(body, dict) else None
        msg = f"the schema of the manifest is {found!r}"
        raise CaptureError(
            msg, path=path, expected=SCHEMA, remedy="read it with the pytest-falsify that wrote it"
        )
    for problem in _shape().violations(body):
        expected = f"{yaml_path(problem.at)}: {problem.expected}"
        raise CaptureError(problem.what, path=path, expected=expected, remedy=AGAIN)
    content = {key: value for key, value in body.items() if key != "digest"}
    try:
        found = digest(content)
    except ValueError:  # NaN, or a number that no float holds
        found = None
    if found != body["digest"]:
        msg = "the manifest is not as it was written"
        raise CaptureError(msg, path=path, expected=body["digest"], remedy=AGAIN)


def _parsed(body: Mapping[str, Any], path: Path) -> Manifest:
    if (body["format"] == STATISTICS) != ("statistics" in body):
        msg = f"the format `{body['format']}` does not go with what is kept"
        raise CaptureError(msg, path=path, remedy=AGAIN)
    tensors = tuple(_stored_tensor(each, path) for each in body["tensors"])
    summaries = [_summary(each) for each in body.get("statistics", ())]
    sites = [each.site for each in tensors] + [site for site, _ in summaries]
    if len(set(sites)) != len(sites):
        msg = "a site is there twice"
        raise CaptureError(msg, path=path, remedy=AGAIN)
    return Manifest(
        path=path,
        package=body["package"],
        format=body["format"],
        identity=_identity(body["identity"], path),
        inputs=_inputs(body["inputs"], path),
        plan=_plan(body["plan"]),
        missing=tuple(Site.parse(each) for each in body["missing"]),
        continuation=tuple(body["continuation"]),
        tensors=tensors,
        logits=tuple(_stored_tensor(each, path) for each in body["logits"]),
        shortlists=shortlists_from_json(body["shortlists"]) if "shortlists" in body else None,
        caveats=tuple(body.get("caveats", ())),
        machine=body.get("machine"),
        statistics=dict(summaries),
    )


def _summary(body: Mapping[str, Any]) -> tuple[Site, Summary]:
    numbers = {key: value for key, value in body.items() if key != "site"}
    return Site.parse(body["site"]), Summary(**{**numbers, "shape": tuple(body["shape"])})


def _identity(body: Mapping[str, Any], path: Path) -> Identity:
    known = {each.name for each in fields(Identity)}
    identity = Identity(**{key: value for key, value in body.items() if key in known})
    _must_agree(identity.digest, body["digest"], "identity", path)
    return identity


def _inputs(body: Mapping[str, Any], path: Path) -> TokenInputs:
    inputs = TokenInputs(
        name=body["name"], tokens=tuple(body["tokens"]), forced=tuple(body.get("forced", ()))
    )
    _must_agree(inputs.digest, body["digest"], "inputs", path)
    return inputs


def _must_agree(found: str, written: str, what: str, path: Path) -> None:
    if found != written:
        msg = f"the digest of the {what} is not that of what the manifest says of them"
        raise CaptureError(
            msg, path=path, expected=found, remedy="read it with the pytest-falsify that wrote it"
        )


def _plan(body: Mapping[str, Any]) -> Plan:
    known = {each.name for each in fields(Plan)}
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in body.items()
        if key in known
    }
    values["stages"] = in_order(map(canonical, body["stages"]))
    return Plan(**values)


def _fed(inputs: TokenInputs) -> dict[str, Any]:
    forced = {"forced": list(inputs.forced)} if inputs.forced else {}
    return {
        "digest": inputs.digest,
        "name": inputs.name,
        "tokens": list(inputs.tokens),
        **forced,
    }


def _described(tensor: CapturedTensor) -> dict[str, Any]:
    sketch = {"sketch": asdict(tensor.sketch)} if tensor.sketch else {}
    return {
        "dims": tensor.dims,
        "positions": runs(tensor.positions),
        "mask": tensor.mask,
        **sketch,
    }


def _stored(array: Array, file: str) -> dict[str, Any]:
    return {
        "file": file,
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "sha256": array_digest(array),
    }


def _stored_tensor(body: Mapping[str, Any], path: Path) -> StoredTensor:
    file = PurePosixPath(body["file"])
    if file.is_absolute() or ".." in file.parts or not file.parts or "\\" in body["file"]:
        msg = f"the manifest names `{body['file']}`, which is outside of the capture"
        raise CaptureError(msg, path=path, expected="a file in the manifest's own folder")
    if dtype_named(body["dtype"]) is None:
        msg = f"the manifest names the unknown dtype {body['dtype']}"
        raise CaptureError(msg, path=path, remedy=AGAIN)
    return StoredTensor(
        site=Site.parse(body["site"]) if "site" in body else None,
        file=str(file),
        dtype=body["dtype"],
        shape=tuple(body["shape"]),
        sha256=body["sha256"],
        dims=body.get("dims", ""),
        positions=_positions(body.get("positions", []), body["shape"], path),
        mask=body.get("mask", "none"),
        sketch=Sketch(**body["sketch"]) if "sketch" in body else None,
    )


def _positions(spans: Sequence[Sequence[int]], shape: Sequence[int], path: Path) -> tuple[int, ...]:
    """Return the positions of some runs, no more of them than the longest axis has places."""
    lengths = [end - first for first, end in spans]
    if any(length < 1 for length in lengths) or sum(lengths) > max(shape, default=0):
        msg = f"the positions {spans} do not fit a tensor of shape {shape}"
        raise CaptureError(msg, path=path, remedy=AGAIN)
    return tuple(place for first, end in spans for place in range(first, end))
