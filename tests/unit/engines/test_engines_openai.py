"""A server of completions is asked what it can tell, and believed no further: real servers."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import pytest
from engines_support import load

from pytest_falsify.captures.bundle import read_bundle, write_bundle
from pytest_falsify.captures.capture import TokenInputs
from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.pool import CapturePool
from pytest_falsify.captures.record import record
from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines import openai_client
from pytest_falsify.engines.openai_answer import NO_IDS, NO_LOGPROBS
from pytest_falsify.engines.openai_client import retry_after
from pytest_falsify.engines.recorded import is_replay
from pytest_falsify.engines.registry import engine
from pytest_falsify.errors import Blocked, CaptureError, ContractError

PROMPT = TokenInputs(name="prompt", tokens=(3, 141, 59, 26, 535, 8))
STEPS = Plan(decode_steps=6)


def loaded(root, **options):
    target = Target(name="here", model="any", line=1)
    spec = CaptureSpec(name="mine", engine="openai", line=1, options=options)
    return engine("openai").load(target, spec, root=root, device="cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(openai_client, "FIRST_DELAY", 0.001)


@pytest.fixture
def ask(tmp_path):
    """Load a session that asks a URL."""
    return lambda url, **options: loaded(tmp_path, url=url, **options)


@pytest.fixture
def between(middlemen, aggregated_url):
    """A middleman before the real server."""
    with middlemen.Middleman(upstream=aggregated_url) as found:
        yield found


@pytest.fixture(scope="module")
def reference(qwen2_tiny):
    """What transformers makes of the same weights."""
    pytest.importorskip("transformers")
    session = load("transformers", qwen2_tiny, dtype="float32", attention="eager")
    return record(session, PROMPT, STEPS)


def test_a_server_chooses_the_tokens_that_transformers_does(ask, aggregated_url, reference):
    found = record(ask(aggregated_url), PROMPT, STEPS)

    assert found.continuation == reference.continuation
    assert len(found.shortlists) == STEPS.decode_steps + 1
    assert [step[0].tokens[0] for step in found.shortlists[:-1]] == list(found.continuation)
    assert found.logits == ()
    assert found.caveats == ()


def test_what_is_told_are_log_probabilities_among_the_whole_vocabulary(
    ask, aggregated_url, reference
):
    found = record(ask(aggregated_url, top="all"), PROMPT, STEPS)

    for told, logits in zip(found.shortlists, reference.logits, strict=True):
        wide = logits[-1].astype(np.float64)
        expected = wide - wide.max() - math.log(np.exp(wide - wide.max()).sum())
        logprobs = np.array([told[0].by_token()[token] for token in range(len(wide))])
        assert told[0].is_whole
        assert told[0].tail == 0
        assert np.abs(logprobs - expected).max() < 2e-5


def test_the_tail_is_what_the_best_leave(ask, aggregated_url):
    few, all_ = (
        record(ask(aggregated_url, top=top), PROMPT, Plan()).shortlists[0][0] for top in (5, "all")
    )

    assert few.tokens == all_.tokens[:5]
    assert few.tail == pytest.approx(sum(map(math.exp, all_.logprobs[5:])), abs=1e-5)


def test_each_token_of_a_prompt_can_be_asked_for(ask, aggregated_url, reference):
    found = record(ask(aggregated_url, prompt="each"), PROMPT, Plan(decode_steps=2))

    assert len(found.shortlists[0]) == len(PROMPT.tokens)
    assert [each.tokens[0] for each in found.shortlists[0]] == [
        int(row.argmax()) for row in reference.logits[0]
    ]
    assert [len(step) for step in found.shortlists[1:]] == [1, 1]


def test_forced_tokens_are_fed_one_by_one(ask, aggregated_url, reference):
    forced = (7, 8, 9)
    session = ask(aggregated_url)
    inputs = TokenInputs(name="prompt", tokens=PROMPT.tokens, forced=forced)

    found = record(session, inputs, Plan(decode_steps=3))

    after = TokenInputs(name="prompt", tokens=(*PROMPT.tokens, *forced))
    alone = record(session, after, Plan())
    assert found.shortlists[3][0].tokens == alone.shortlists[0][0].tokens
    assert found.continuation[0] == reference.continuation[0]


def test_a_text_becomes_the_tokens_of_the_servers_own_tokenizer(ask, aggregated_url, qwen2_tiny):
    pytest.importorskip("transformers")
    text = "The function returns a new list"

    here = load("transformers", qwen2_tiny).encode(text)

    assert ask(aggregated_url).encode(text) == here


def test_identity_is_what_the_server_says_and_not_where_it_is(
    ask, aggregated_url, split_url, middlemen
):
    one, other = ask(aggregated_url), ask(split_url)

    assert one.identity() == other.identity()
    assert one.place != other.place
    assert one.identity().versions.keys() == {"llamacpp"}
    assert "127.0.0.1" not in str(one.identity())
    assert ask(aggregated_url, label="four workers").identity().digest != one.identity().digest


def test_two_servers_that_say_the_same_of_themselves_are_both_asked(
    aggregated_url, middlemen, tmp_path
):
    def other(path, body):
        if path == middlemen.COMPLETIONS:
            body["choices"][0]["logprobs"]["content"][0]["id"] = 1
            body["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]["id"] = 1
        return body

    pool = CapturePool()
    target = Target(name="here", model="any", line=1)

    def first(url):
        spec = CaptureSpec(name="same", engine="openai", line=1, options={"url": url})
        session = pool.session(target, spec, root=tmp_path, device="cpu")
        return pool.capture(session, PROMPT, Plan(decode_steps=1)).continuation[0]

    with middlemen.Middleman(upstream=aggregated_url, edit=other) as faulty:
        assert first(aggregated_url) != first(faulty.url) == 1


def test_the_machine_of_a_server_elsewhere_is_that_server(ask, aggregated_url):
    session = ask(aggregated_url)
    elsewhere = type(session)(
        name="a",
        url="https://gpu-7.example.org/v1",
        client=session.client,
        model=session.model,
        settings=session.settings,
    )

    assert session.machine is None
    assert elsewhere.machine.startswith("sha256:")
    assert "gpu-7" not in repr(elsewhere)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_asked_again_and_recorded(ask, between, status):
    session = ask(between.url)
    between.failures.extend([(status, {}), (status, {})])

    found = record(session, PROMPT, Plan())

    assert len(between.seen) == 3
    assert found.caveats == (f"a request was sent again after {status}, {status}",)


def test_a_cut_connection_is_asked_again_and_recorded(ask, between, middlemen):
    session = ask(between.url)
    between.failures.append((middlemen.CUT, {}))

    found = record(session, PROMPT, Plan())

    assert len(between.seen) == 2
    assert found.caveats == ("a request was sent again after RemoteProtocolError",)


def test_a_server_that_stays_away_blocks_and_its_host_is_not_told(ask, between):
    session = ask(between.url, retries=2)
    between.failures.extend([(503, {})] * 9)

    with pytest.raises(Blocked, match=r"gave no answer: 503, 503, 503\n") as caught:
        record(session, PROMPT, Plan())

    assert "127.0.0.1" not in str(caught.value)
    assert len(between.seen) == 3


def test_an_answer_that_takes_too_long_is_asked_for_again_and_recorded(ask, between):
    session = ask(between.url, timeout=1.0)
    delays = [1.2]

    def slow(_path, body):
        time.sleep(delays.pop() if delays else 0)
        return body

    between.edit = slow

    found = record(session, PROMPT, Plan())

    assert found.caveats == ("a request was sent again after ReadTimeout",)


def test_an_absent_server_blocks(ask):
    with pytest.raises(Blocked, match=r"server of capture `mine` gave no answer: ConnectError"):
        ask("http://127.0.0.1:9", retries=1)


def test_the_time_that_a_server_asks_for_is_waited(ask, between, monkeypatch):
    waited = []
    session = ask(between.url)
    monkeypatch.setattr(openai_client.time, "sleep", waited.append)
    between.failures.extend([(429, {"Retry-After": "7"}), (503, {})])

    record(session, PROMPT, Plan())

    assert 7 <= waited[0] <= 7 * 1.25
    assert 0.002 <= waited[1] <= 0.002 * 1.25


def test_an_hour_is_not_waited(ask, between):
    session = ask(between.url)
    between.failures.append((429, {"Retry-After": "3600"}))

    with pytest.raises(Blocked, match=r"asks to wait for \d{4} s"):
        record(session, PROMPT, Plan())


def test_retry_after_is_seconds_or_a_date():
    now = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)

    assert retry_after("30", now) == 30
    assert retry_after("Sat, 21 Nov 2026 12:00:45 GMT", now) == 45
    assert retry_after("Sat, 21 Nov 2026 11:00:00 GMT", now) == 0
    assert retry_after("soon", now) is None
    assert retry_after(None, now) is None


def test_an_error_is_told_without_the_key_and_the_host(ask, between, monkeypatch):
    monkeypatch.setenv("SERVED_KEY", "sk-very-secret")
    session = ask(between.url, key_env="SERVED_KEY")
    between.failures.append((400, {}))

    with pytest.raises(CaptureError, match=r"`mine` answers 400: .*Bearer \.\.\.") as caught:
        record(session, PROMPT, Plan())

    told = str(caught.value) + repr(session) + str(session.identity())
    assert between.seen[-1][0]["authorization"] == "Bearer sk-very-secret"
    assert "sk-very-secret" not in told
    assert "127.0.0.1" not in told


def test_a_prompt_that_is_too_long_is_an_error_in_the_servers_own_words(ask, aggregated_url):
    long = TokenInputs(name="long", tokens=(5,) * 1500)

    with pytest.raises(CaptureError, match=r"answers 400: .*exceeds the available context size"):
        record(ask(aggregated_url), long, Plan())


def test_a_refused_key_blocks_and_nothing_is_quoted(ask, between):
    session = ask(between.url)
    between.failures.append((401, {}))

    with pytest.raises(Blocked, match=r"refuses the request \(401\)\n"):
        record(session, PROMPT, Plan())


def test_no_more_requests_are_on_their_way_than_the_contract_allows(ask, between):
    session = ask(between.url, prompt="each", concurrency=2)
    long = TokenInputs(name="long", tokens=tuple(range(40, 64)))

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: record(session, long, Plan()), range(4)))

    assert session.concurrency == 2
    assert between.most_at_once == 2
    assert len({each.shortlists[0][-1].tokens for each in answers}) == 1


def test_threads_share_a_session(ask, aggregated_url):
    session = ask(aggregated_url)
    barrier = threading.Barrier(4)

    def run(token):
        barrier.wait()
        inputs = TokenInputs(name="own", tokens=(token, 59, 26))
        return record(session, inputs, STEPS).continuation

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, (88, 12, 221, 17)))

    alone = [
        record(session, TokenInputs(name="own", tokens=(each, 59, 26)), STEPS).continuation
        for each in (88, 12, 221, 17)
    ]
    assert together == alone


def test_a_server_is_asked_to_use_no_cache(ask, between):
    session = ask(between.url)

    answers = [record(session, PROMPT, Plan()) for _ in range(2)]

    assert [each.caveats for each in answers] == [(), ()]
    assert all(body["cache_prompt"] is False for _, body in between.seen)


def with_cache(middlemen, upstream):
    """Ask the real server to use its cache, whatever the client says."""

    class Caching(middlemen.Middleman):
        def answer(self, path, headers, body):
            body = body and body.replace(b',"cache_prompt":false', b"")
            return super().answer(path, headers, body)

    return Caching(upstream=upstream)


def test_an_answer_of_which_the_server_had_a_part_is_a_caveat(ask, middlemen, aggregated_url):
    inputs = TokenInputs(name="own", tokens=(61, 62, 63, 64, 65))
    with with_cache(middlemen, aggregated_url) as caching:
        session = ask(caching.url)
        record(session, inputs, Plan())
        again = record(session, inputs, Plan())

    assert again.caveats == ("a part of a prompt came from the server's cache",)


@pytest.mark.parametrize(
    ("change", "headers", "caveat"),
    [
        (
            lambda body: body.pop("usage") and body.pop("timings"),
            {},
            "the server does not tell whether a prompt was in its cache",
        ),
        (
            lambda body: body["usage"].update(prompt_tokens=5),
            {},
            "the server counts 5 tokens in a prompt of 6",
        ),
        (
            lambda body: body["choices"][0]["logprobs"]["content"].pop(),
            {},
            "the server cut an answer of 7 tokens after 6",
        ),
        (
            lambda body: body["choices"][0]["logprobs"]["content"][2].update(id=1, logprob=-9.0),
            {},
            "the server chose another token than its best, at temperature 0",
        ),
        (lambda body: body.update(truncated=True), {}, "the server cut a prompt short"),
        (lambda _: None, {"Age": "12"}, "an answer came from a cache before the server"),
        (
            lambda _: None,
            {"X-Cache": "Hit from edge"},
            "an answer came from a cache before the server",
        ),
    ],
)
def test_what_is_to_be_doubted_is_a_caveat(ask, between, change, headers, caveat):
    def edit(path, body):
        if path == "/v1/completions":
            change(body)
        return body

    session = ask(between.url)
    between.edit, between.headers = edit, headers

    assert record(session, PROMPT, STEPS).caveats == (caveat,)


def in_vllms_form(body, *, ids=True):
    """The same numbers as OpenAI's own form has them, with vLLM's names of tokens by id."""
    choice = body["choices"][0]
    content = choice["logprobs"]["content"]

    def name(each):
        return f"token_id:{each['id']}" if ids else each["token"]

    choice["logprobs"] = {
        "tokens": [name(each) for each in content],
        "token_logprobs": [each["logprob"] for each in content],
        "top_logprobs": [
            {name(one): one["logprob"] for one in each["top_logprobs"]} for each in content
        ],
        "text_offset": [0] * len(content),
    }
    if ids:
        choice["token_ids"] = [each["id"] for each in content]
        choice["prompt_token_ids"] = list(PROMPT.tokens)
    return body


def as_vllm(path, body):
    if path == "/v1/models":
        model = body["data"][0]
        return {"data": [{"id": model["id"], "owned_by": "vllm", "root": "a/b"}]}
    return in_vllms_form(body) if path == "/v1/completions" else body


def test_the_form_of_vllm_tells_the_same(ask, aggregated_url, between):
    direct = record(ask(aggregated_url), PROMPT, STEPS)
    between.edit = as_vllm
    session = ask(between.url)

    found = record(session, PROMPT, STEPS)

    assert found.continuation == direct.continuation
    assert [step[0].tokens for step in found.shortlists] == [
        step[0].tokens for step in direct.shortlists
    ]
    assert found.shortlists[0][0].vocabulary is None
    asked = between.seen[-1][1]
    assert asked["return_tokens_as_token_ids"] is asked["return_token_ids"] is True
    assert len({body["cache_salt"] for _, body in between.seen}) == len(between.seen)


def test_a_salt_that_vllm_knows_is_as_good_as_an_empty_cache(ask, between):
    def silent(path, body):
        found = as_vllm(path, body)
        if path == "/v1/completions":
            del found["usage"]["prompt_tokens_details"], found["timings"]
        return found

    def old(path, body):
        found = silent(path, body)
        if path == "/v1/completions":
            del found["choices"][0]["prompt_token_ids"]
        return found

    between.edit = silent
    session = ask(between.url)
    assert record(session, PROMPT, STEPS).caveats == ()
    between.edit = old
    assert record(session, PROMPT, STEPS).caveats == (
        "the server does not tell whether a prompt was in its cache",
    )


def test_a_server_that_ran_other_tokens_is_refused(ask, between):
    def other(path, body):
        found = as_vllm(path, body)
        if path == "/v1/completions":
            found["choices"][0]["prompt_token_ids"] = [0, *PROMPT.tokens]
        return found

    between.edit = other
    session = ask(between.url)

    with pytest.raises(CaptureError, match="ran 7 tokens that are not the 6 it was given"):
        record(session, PROMPT, STEPS)


def test_a_server_that_names_tokens_by_text_tells_nothing_and_why(ask, between):
    def by_text(path, body):
        return in_vllms_form(body, ids=False) if path == "/v1/completions" else body

    between.edit = by_text

    found = record(ask(between.url), PROMPT, STEPS)

    assert found.continuation == ()
    assert not any(found.shortlists)
    assert NO_IDS in found.caveats


def test_a_server_that_tells_no_log_probabilities_tells_nothing_and_why(ask, between):
    def silent(path, body):
        if path == "/v1/completions":
            body["choices"][0]["logprobs"] = None
        return body

    between.edit = silent

    found = record(ask(between.url), PROMPT, STEPS)

    assert found.continuation == ()
    assert NO_LOGPROBS in found.caveats


def test_a_number_that_is_none_is_a_nan_and_no_distribution(ask, between, tmp_path):
    def broken(path, body):
        if path == "/v1/completions":
            body["choices"][0]["logprobs"]["content"][0]["top_logprobs"][1]["logprob"] = None
        return body

    session = ask(between.url)
    between.edit = broken
    found = record(session, PROMPT, Plan())
    write_bundle(found, tmp_path / "bundle")

    assert not found.shortlists[0][0].is_sound
    assert not read_bundle(tmp_path / "bundle").shortlists[0][0].is_sound


def test_a_capture_of_a_server_is_kept_on_disk_with_its_caveats(ask, between, tmp_path):
    session = ask(between.url)
    between.failures.append((503, {}))
    found = record(session, PROMPT, STEPS)

    write_bundle(found, tmp_path / "bundle")

    assert read_bundle(tmp_path / "bundle") == found
    assert found.caveats


def test_a_recording_of_a_server_is_replayed_with_its_caveats(ask, between, tmp_path):
    session = ask(between.url)
    between.failures.append((503, {}))
    found = record(session, PROMPT, STEPS)
    write_bundle(found, tmp_path / "bundle")
    target = Target(name="here", model="any", line=1)
    spec = CaptureSpec(name="mine", engine="recorded", line=1, options={"bundle": "bundle"})

    replayed = engine("recorded").load(target, spec, root=tmp_path, device="cpu")
    again = record(replayed, PROMPT, Plan(decode_steps=2))

    assert again.shortlists == found.shortlists[:3]
    assert again.continuation == found.continuation[:2]
    assert again.caveats == found.caveats
    assert is_replay(again.identity)


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({}, ContractError, "does not say where its server is"),
        ({"url": "http://a", "url_env": "B"}, ContractError, "does not say where its server is"),
        ({"url_env": "NOT_SET_HERE"}, Blocked, "takes the URL of its server from NOT_SET_HERE"),
        ({"url": "http://a", "key_env": "NOT_SET_HERE"}, Blocked, "takes its key from NOT_SET"),
    ],
)
def test_what_a_contract_must_say(tmp_path, options, error, what):
    with pytest.raises(error, match=what):
        loaded(tmp_path, **options)


@pytest.mark.parametrize("url", ["http://me:secret@example.org", "http://example.org/?key=secret"])
def test_a_url_of_the_environment_holds_no_secret(tmp_path, monkeypatch, url):
    monkeypatch.setenv("SERVED_URL", url)

    with pytest.raises(ContractError, match="SERVED_URL holds no URL of a server") as caught:
        loaded(tmp_path, url_env="SERVED_URL")

    assert "secret" not in str(caught.value)


def test_a_model_that_is_not_served_blocks(ask, aggregated_url):
    with pytest.raises(Blocked, match=r"has no model `another`"):
        ask(aggregated_url, model="another")


def test_without_the_library_it_is_blocked_with_the_command(ask, monkeypatch):
    monkeypatch.setattr(openai_client, "find_spec", lambda _: None)

    with pytest.raises(Blocked) as caught:
        ask("http://127.0.0.1:9")

    assert caught.value.remedy == "pip install 'pytest-falsify[served]'"
