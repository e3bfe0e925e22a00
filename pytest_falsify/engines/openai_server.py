"""Where a server is, with which key it is asked, and what it says of its model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pytest_falsify.errors import Blocked, ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.engines.openai_client import Client

LLAMA_CPP, VLLM = "llamacpp", "vllm"
"""What servers say in ``owned_by`` of a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model as its server describes it.

    Attributes:
        id: what a request calls it.
        server: what runs it, as the server says: ``llamacpp``, ``vllm``.
        build: the version of the server, where it tells.
        about: what else it says of the model: sizes.
    """

    id: str
    server: str
    build: str
    about: Mapping[str, Any]

    @property
    def vocabulary(self) -> int | None:
        """How many tokens it knows, where the server tells."""
        size = self.about.get("n_vocab")
        return size if isinstance(size, int) and size > 0 else None


def url_of(spec: CaptureSpec) -> str:
    """Return where a capture's server is.

    Raises:
        ContractError: when the contract does not say, or it is no URL, or one with a secret in it.
        Blocked: when the variable that holds it is not set.
    """
    given = [name for name in ("url", "url_env") if name in spec.options]
    if len(given) != 1:
        msg = f"capture `{spec.name}` does not say where its server is"
        raise ContractError(msg, expected="one of `url` and `url_env`")
    if given == ["url"]:
        return str(spec.options["url"])
    url = _variable(spec, "url_env", "the URL of its server")
    if set("@?#") & set(url) or urlsplit(url).scheme not in {"http", "https"}:
        msg = f"capture `{spec.name}`: {spec.options['url_env']} holds no URL of a server"
        raise ContractError(
            msg, expected="http:// or https://, without a name, a password or a query"
        )
    return url


def key_of(spec: CaptureSpec) -> str | None:
    """Return the key that a capture's server is asked with; None: none is needed.

    Raises:
        Blocked: when the variable that holds it is not set.
    """
    return _variable(spec, "key_env", "its key") if "key_env" in spec.options else None


def _variable(spec: CaptureSpec, option: str, what: str) -> str:
    name = spec.options[option]
    value = os.environ.get(name, "").strip()
    if not value:
        msg = f"capture `{spec.name}` takes {what} from {name}, which is not set"
        raise Blocked(msg, remedy=f"export {name}=...")
    return value


def served_model(client: Client, spec: CaptureSpec, target: Target) -> ServedModel:
    """Ask a server for its models, and return the one that a capture means.

    Raises:
        Blocked: when it has none of that name, or cannot be reached.
    """
    listed = (client.get("/v1/models") or {}).get("data")
    known = {each["id"]: each for each in listed or () if isinstance(each, dict) and "id" in each}
    wanted = spec.options.get("model", target.model)
    if "model" not in spec.options and wanted not in known and len(known) == 1:
        wanted = next(iter(known))
    if wanted not in known:
        msg = f"the server of capture `{spec.name}` has no model `{wanted}`"
        raise Blocked(msg, remedy=f"`model:` one of {', '.join(sorted(known)) or 'none'}")
    server = str(known[wanted].get("owned_by", "server"))
    meta = known[wanted].get("meta")
    about = meta if isinstance(meta, dict) else {}
    return ServedModel(id=wanted, server=server, build=_build(client, server), about=about)


def _build(client: Client, server: str) -> str:
    """Return the version of a server, as far as it tells."""
    places = {LLAMA_CPP: ("/props", "build_info"), VLLM: ("/version", "version")}
    if server not in places:
        return "untold"
    path, key = places[server]
    return str((client.get(path) or {}).get(key, "untold"))
