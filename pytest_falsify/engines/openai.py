"""The openai engine: a server of OpenAI's completions, asked for tokens and their alternatives."""

from __future__ import annotations

import ipaddress
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit
from uuid import uuid4

from pytest_falsify.canonical import digest
from pytest_falsify.captures.capture import Identity
from pytest_falsify.engines.base import Answer
from pytest_falsify.engines.openai_answer import Completion, Question, read_completion
from pytest_falsify.engines.openai_client import Client
from pytest_falsify.engines.openai_server import (
    LLAMA_CPP,
    VLLM,
    ServedModel,
    key_of,
    served_model,
    url_of,
)
from pytest_falsify.engines.tokenizer import AS_TOKENS
from pytest_falsify.errors import CaptureError, ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_falsify.captures.capture import TokenInputs
    from pytest_falsify.captures.plan import Plan
    from pytest_falsify.captures.shortlist import Shortlist
    from pytest_falsify.contracts.model import CaptureSpec, Target
    from pytest_falsify.engines.base import Sink

ALL = "all"
LAST, EACH = "last", "each"
_DEFAULTS: dict[str, Any] = {
    "concurrency": 4,
    "prompt": LAST,
    "retries": 4,
    "timeout": 120.0,
    "top": 20,
}
_KEPT = (*_DEFAULTS, "label")
ASKED_OF: Mapping[str, Mapping[str, Any]] = {
    LLAMA_CPP: {"cache_prompt": False},
    VLLM: {"return_tokens_as_token_ids": True, "return_token_ids": True},
}
"""What is asked of a server beyond OpenAI's own parameters."""


class OpenAIEngine:
    """Asks a server that somebody else runs."""

    name: ClassVar[str] = "openai"
    is_served: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Any]] = {
        "url": {
            "type": "string",
            "pattern": "^https?://[^@?#]+$",
            "description": "where the server is, without a name, a password or a query in it",
        },
        "url_env": {
            "type": "string",
            "minLength": 1,
            "description": "the environment variable that holds the URL",
        },
        "key_env": {
            "type": "string",
            "minLength": 1,
            "description": "the environment variable that holds the key, sent as a bearer token",
        },
        "model": {
            "type": "string",
            "minLength": 1,
            "description": "which of the server's models; the target's, or the only one",
        },
        "label": {
            "type": "string",
            "minLength": 1,
            "description": "what this deployment is called in evidence: change it with the "
            "deployment",
        },
        "top": {
            "oneOf": [{"const": ALL}, {"type": "integer", "minimum": 1}],
            "description": "how many candidates are asked for at each token; 20. `all` where the "
            "server tells how many there are",
        },
        "prompt": {
            "enum": [LAST, EACH],
            "description": "`each`: also ask what follows every token of the prompt, each with a "
            "request of its own; `last`",
        },
        "concurrency": {
            "type": "integer",
            "minimum": 1,
            "maximum": 1024,
            "description": "how many requests are on their way at once; 4",
        },
        "timeout": {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": "seconds that one request may take; 120",
        },
        "retries": {
            "type": "integer",
            "minimum": 0,
            "maximum": 100,
            "description": "how often a request is sent again after a failure that may pass; 4",
        },
    }

    def load(self, target: Target, spec: CaptureSpec, *, root: Path, device: str) -> OpenAISession:
        """Ask the server what it is; see ``Engine.load``."""
        del root, device
        url = url_of(spec)
        settings = _DEFAULTS | {key: spec.options[key] for key in _KEPT if key in spec.options}
        client = Client(
            url,
            name=spec.name,
            key=key_of(spec),
            concurrency=settings["concurrency"],
            timeout=settings["timeout"],
            retries=settings["retries"],
        )
        model = served_model(client, spec, target)
        return OpenAISession(name=spec.name, url=url, client=client, model=model, settings=settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAISession:
    """One model on one server. Threads may share it, at most ``concurrency`` of them."""

    understands: ClassVar[frozenset[str]] = frozenset({"forced"})
    is_served: ClassVar[bool] = True
    layer_count: ClassVar[int] = 0
    stages: ClassVar[tuple[str, ...]] = ()
    name: str
    url: str = field(repr=False)
    client: Client = field(repr=False)
    model: ServedModel
    settings: Mapping[str, Any]

    @property
    def concurrency(self) -> int:
        """How many runs may be made at once."""
        return int(self.settings["concurrency"])

    @property
    def place(self) -> str:
        """What tells two servers of one identity apart, in this process and in its caches."""
        return digest(self.url)

    @property
    def machine(self) -> str | None:
        """The digest of the host that computes; None where it is this one.

        Two clients of one server are no two machines.
        """
        host = urlsplit(self.url).hostname or ""
        return None if _is_here(host) else digest(["pytest-falsify server 1", host])

    def identity(self) -> Identity:
        """Return what the server says that it is; where it is plays no part."""
        kept = {
            key: self.settings[key] for key in ("label", "prompt", "top") if key in self.settings
        }
        return Identity(
            engine=OpenAIEngine.name,
            versions={self.model.server: self.model.build},
            weights=digest({"id": self.model.id, "about": dict(self.model.about)}),
            settings=kept,
            device="served",
            device_name="served",
        )

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, as the server's own tokenizer makes them."""
        asked: Mapping[str, Mapping[str, Any]] = {
            LLAMA_CPP: {"content": text, "add_special": True},
            VLLM: {"model": self.model.id, "prompt": text},
        }
        if self.model.server not in asked:
            msg = f"the server of capture `{self.name}` makes no token ids of a text"
            raise CaptureError(msg, remedy=AS_TOKENS)
        found = self.client.post("/tokenize", asked[self.model.server]).body.get("tokens")
        if not isinstance(found, list) or not all(type(each) is int for each in found):
            msg = f"the server of capture `{self.name}` makes no token ids of a text"
            raise CaptureError(msg, remedy=AS_TOKENS)
        return tuple(found)

    def run(self, inputs: TokenInputs, plan: Plan, sink: Sink) -> Answer:
        """Ask for the continuation, each token with the alternatives that it had.

        Forced tokens are asked for one by one, each with all before it as the prompt: so is what
        follows each token of the prompt.
        """
        del sink
        if not inputs.tokens:
            msg = f"input `{inputs.name}` has no tokens"
            raise CaptureError(msg, expected="at least one token")
        before = _before(inputs.tokens) if self.settings["prompt"] == EACH else ()
        found = self._answered((*before, *_after(inputs, plan.decode_steps)))
        prompt = tuple(one for each in found[: len(before)] for one in each.shortlists)
        tokens, told = _in_order(found[len(before) :])
        return Answer(
            logits=(),
            continuation=tokens[: plan.decode_steps],
            shortlists=((*prompt, *told[:1]), *((each,) for each in told[1:])),
            caveats=tuple(sorted({caveat for each in found for caveat in each.caveats})),
        )

    def _answered(self, questions: tuple[Question, ...]) -> tuple[Completion, ...]:
        if len(questions) == 1:
            return (self._asked(questions[0]),)
        with ThreadPoolExecutor(min(len(questions), self.concurrency)) as pool:
            return tuple(pool.map(self._asked, questions))

    def _asked(self, question: Question) -> Completion:
        reply = self.client.post("/v1/completions", self._body(question))
        return read_completion(
            reply,
            question,
            vocabulary=self.model.vocabulary,
            is_salted=self.model.server == VLLM,
        )

    def _body(self, question: Question) -> dict[str, Any]:
        top = self.settings["top"]
        if top == ALL and self.model.vocabulary is None:
            msg = f"the server of capture `{self.name}` does not tell how many tokens there are"
            raise ContractError(msg, expected="`top`: a number")
        body = {
            "model": self.model.id,
            "prompt": list(question.prompt),
            "max_tokens": question.count,
            "temperature": 0,
            "logprobs": self.model.vocabulary if top == ALL else top,
            **ASKED_OF.get(self.model.server, {}),
        }
        # A prefix is cached for those who send the same salt: so there is none for anybody.
        return body | ({"cache_salt": uuid4().hex} if self.model.server == VLLM else {})


def _before(tokens: tuple[int, ...]) -> tuple[Question, ...]:
    """Return what asks for the token after each of some tokens but the last."""
    return tuple(Question(prompt=tokens[:end], count=1) for end in range(1, len(tokens)))


def _after(inputs: TokenInputs, steps: int) -> tuple[Question, ...]:
    """Return what asks for the continuation: at once, or token by token where they are forced."""
    if not inputs.forced:
        return (Question(prompt=inputs.tokens, count=steps + 1),)
    return tuple(
        Question(prompt=(*inputs.tokens, *inputs.forced[:step]), count=1)
        for step in range(steps + 1)
    )


def _in_order(
    found: tuple[Completion, ...],
) -> tuple[tuple[int, ...], tuple[Shortlist, ...]]:
    """Return the tokens of some answers and what was told of them, up to one that has none."""
    told = tuple(takewhile(lambda each: each.tokens, found))
    tokens = tuple(one for each in told for one in each.tokens)
    return tokens, tuple(one for each in told for one in each.shortlists)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
