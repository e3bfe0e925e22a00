"""What a server of OpenAI's completions answers, read: token ids, shortlists, and what to doubt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_falsify.captures.shortlist import Shortlist
from pytest_falsify.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_falsify.engines.openai_client import Reply

TOKEN_ID = "token_id:"  # noqa: S105 - how vLLM spells a token by its id
NO_IDS = "the server does not name tokens by their ids"
NO_LOGPROBS = "the server tells no token with its log-probability"
CUT = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request for completions.

    Attributes:
        prompt: token ids.
        count: how many tokens are asked for.
    """

    prompt: tuple[int, ...]
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer.

    Attributes:
        tokens: the ids that the server chose.
        shortlists: what it told of each choice.
        caveats: in words, what keeps the answer from discharging a claim.
    """

    tokens: tuple[int, ...]
    shortlists: tuple[Shortlist, ...]
    caveats: tuple[str, ...]


def read_completion(
    reply: Reply, asked: Question, *, vocabulary: int | None, is_salted: bool = False
) -> Completion:
    """Read an answer, in the form of llama.cpp (``content``) or in that of OpenAI and vLLM.

    Args:
        reply: what came.
        asked: what it answers.
        vocabulary: how many tokens the model knows, where that is known.
        is_salted: it was asked with a salt that no prompt in the server's cache has.

    Raises:
        CaptureError: when it is no answer to a request for completions, or one to other tokens.
    """
    choice = _choice(reply.body)
    _must_be_ours(choice, asked)
    steps = list(_steps(choice))
    named = [(token, each) for token, each in steps if token is not None]
    told = named if len(named) == len(steps) else []
    found = Completion(
        tokens=tuple(token for token, _ in told),
        shortlists=tuple(Shortlist.of(each.items(), vocabulary) for _, each in told),
        caveats=(),
    )
    lack = () if told else (NO_IDS if steps else NO_LOGPROBS,)
    caveats = _caveats(reply, choice, asked, found, is_salted=is_salted)
    return replace(found, caveats=(*lack, *caveats))


def _choice(body: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = body.get("choices")
    if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict):
        return choices[0]
    msg = "the server's answer has no `choices` of one member"
    raise CaptureError(msg, expected="OpenAI's form of completions")


def _must_be_ours(choice: Mapping[str, Any], asked: Question) -> None:
    told = choice.get("prompt_token_ids")
    if told is not None and tuple(told) != asked.prompt:
        msg = f"the server ran {len(told)} tokens that are not the {len(asked.prompt)} it was given"
        raise CaptureError(msg, expected="a server that runs the token ids of a prompt as they are")


def _steps(choice: Mapping[str, Any]) -> Iterator[tuple[int | None, dict[int, float]]]:
    """Yield each chosen token, None where it has no id, and the candidates that were told."""
    told = choice.get("logprobs") or {}
    if isinstance(told.get("content"), list):
        yield from map(_step_of_content, told["content"])
        return
    names = told.get("tokens") or []
    ids = choice.get("token_ids") or list(map(_id_of, names))
    own = told.get("token_logprobs") or [None] * len(ids)
    tops = told.get("top_logprobs") or [None] * len(ids)
    for token, logprob, top in zip(ids, own, tops, strict=False):
        yield token, _candidates(token, logprob, (top or {}).items())


def _step_of_content(each: Mapping[str, Any]) -> tuple[int | None, dict[int, float]]:
    token = each.get("id")
    top = [(one.get("id"), one.get("logprob")) for one in each.get("top_logprobs") or ()]
    return token, _candidates(token, each.get("logprob"), top)


def _candidates(token: int | None, logprob: float | None, top: Any) -> dict[int, float]:
    """Return the candidates by id, the chosen one among them; what is no number is NaN."""
    found = {_id_of(name): _number(value) for name, value in top}
    if token is not None and token not in found and logprob is not None:
        found[token] = _number(logprob)
    return {name: value for name, value in found.items() if name is not None}


def _id_of(name: object) -> int | None:
    """Return the id that a token is named by; None when it is named by its text."""
    if isinstance(name, int):
        return name
    text = str(name)
    digits = text.removeprefix(TOKEN_ID)
    return int(digits) if text != digits and digits.isdecimal() else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _caveats(
    reply: Reply,
    choice: Mapping[str, Any],
    asked: Question,
    found: Completion,
    *,
    is_salted: bool,
) -> Iterator[str]:
    if reply.retried:
        yield f"a request was sent again after {', '.join(reply.retried)}"
    # vLLM tells of cached tokens only where there are some. It knows salts for longer than it
    # returns the ids of a prompt (its pull requests 20981 and 22587): so those prove the salt.
    is_fresh = is_salted and choice.get("prompt_token_ids") is not None
    yield from _cache_caveats(reply, is_fresh=is_fresh)
    yield from _cut_caveats(reply.body, choice, asked, found)
    if not _is_greedy(found.tokens, found.shortlists):
        yield "the server chose another token than its best, at temperature 0"


def _cache_caveats(reply: Reply, *, is_fresh: bool) -> Iterator[str]:
    if reply.is_stored:
        yield "an answer came from a cache before the server"
    usage = reply.body.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    timings = reply.body.get("timings") or {}
    cached = details.get("cached_tokens", timings.get("cache_n"))
    if cached is None and not is_fresh:
        yield "the server does not tell whether a prompt was in its cache"
    elif cached:
        yield "a part of a prompt came from the server's cache"


def _cut_caveats(
    body: Mapping[str, Any], choice: Mapping[str, Any], asked: Question, found: Completion
) -> Iterator[str]:
    read = (body.get("usage") or {}).get("prompt_tokens")
    if body.get("truncated") or choice.get("truncated"):
        yield "the server cut a prompt short"
    elif read is not None and read != len(asked.prompt):
        yield f"the server counts {read} tokens in a prompt of {len(asked.prompt)}"
    short = len(found.tokens) < asked.count
    if choice.get("finish_reason") == CUT and found.tokens and short:
        yield f"the server cut an answer of {asked.count} tokens after {len(found.tokens)}"


def _is_greedy(tokens: Sequence[int], shortlists: Sequence[Shortlist]) -> bool:
    for token, each in zip(tokens, shortlists, strict=True):
        known = each.by_token()
        if each.is_sound and known.get(token, -1e9) < each.logprobs[0]:
            return False
    return True
