"""The command engine, with a real program in C and with programs that break their promises."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from engines_support import ARGUMENTS, DECODER, EVERYTHING, PROMPT, build, load
from hypothesis import given
from hypothesis import strategies as st

from pytest_falsify.captures.plan import Plan
from pytest_falsify.captures.record import record
from pytest_falsify.compare.comparison import compare_captures
from pytest_falsify.engines.placeholders import PLACEHOLDERS, filled
from pytest_falsify.errors import Blocked, CaptureError, ContractError
from pytest_falsify.stages.vocabulary import Site


@pytest.fixture(scope="module")
def program(root, tmp_path_factory):
    made = build(root / "fixtures" / "engines" / "qwen2.c", tmp_path_factory.mktemp("c"))
    return made or pytest.skip("there is no C compiler to build fixtures/engines/qwen2.c with")


@pytest.fixture
def load_c(program, qwen2_tiny):
    def loaded(arguments=ARGUMENTS, **options):
        known = {"run": f"{program} {arguments}", "version": f"{program} --version"}
        return load("command", qwen2_tiny, **{"stages": list(DECODER), **known, **options})

    return loaded


@pytest.fixture(scope="module")
def oracle(qwen2_tiny):
    pytest.importorskip("transformers")
    return load("transformers", qwen2_tiny)


def sites_beyond(subject, oracle, limit):
    compared = compare_captures(subject, oracle)
    return [str(each.site) for each in compared.sites if each.total.rel_l2 > limit]


def test_a_program_in_c_agrees_with_transformers_at_every_stage_and_decode_step(load_c, oracle):
    plan = Plan(stages=DECODER, decode_steps=2)

    subject, expected = record(load_c(), PROMPT, plan), record(oracle, PROMPT, plan)

    assert subject.missing == ()
    assert set(subject.tensors) == set(expected.tensors)
    assert sites_beyond(subject, expected, 1e-5) == []
    assert subject.continuation == expected.continuation
    assert [each.shape for each in subject.logits] == [each.shape for each in expected.logits]


@pytest.mark.parametrize(
    ("fault", "first"),
    [
        ("rope-base", "0/0/q_post_rope"),
        ("interleaved", "0/0/q_post_rope"),
        ("wrong-layer", "0/1/ffn_out"),
    ],
)
def test_a_planted_fault_shows_first_at_the_operation_that_has_it(load_c, oracle, fault, first):
    subject = record(load_c(f"{ARGUMENTS} --fault {fault}"), PROMPT, EVERYTHING)

    assert sites_beyond(subject, record(oracle, PROMPT, EVERYTHING), 1e-5)[0] == first


def test_only_what_the_plan_asks_for_is_handed_out(load_c):
    seen = record(load_c(), PROMPT, Plan(stages=("attn_out", "embedding"), layers=(1, 3)))

    assert list(map(str, seen.tensors)) == ["0/-/embedding", "0/1/attn_out", "0/3/attn_out"]
    assert seen.logits[0].shape == (len(PROMPT.tokens), 1536)


def test_the_identity_follows_the_command_its_version_and_its_sources(load_c, tmp_path):
    usual = load_c().identity()

    assert usual.versions == {"program": "qwen2.c 1"}
    digests = {
        usual.digest,
        load_c(f"{ARGUMENTS} --fault rope-base").identity().digest,
        load_c(version="echo 2").identity().digest,
        load_c(sources=["fixtures/engines/qwen2.c"]).identity().digest,
    }
    assert len(digests) == 4
    assert usual.digest == load_c().identity().digest


def write(*lines):
    """Return a command that fills {out} with what a few lines of NumPy make."""
    start = ("import sys, struct", "from pathlib import Path", "out = Path(sys.argv[1])")
    code = "\n".join((*start, *lines))
    return f"{sys.executable} - {{out}} {{model}} {{tokens}} <<'EOF'\n{code}\nEOF"


APRT = "b'APRT' + struct.pack('<II', {layer}, {count}) + bytes(4 * {count})"
EMBEDDING = f"(out / 'embedding.bin').write_bytes({APRT.format(layer=0xFFFFFFFF, count=6 * 128)})"
ONLY_EMBEDDING = Plan(stages=("embedding",))


def fake(model, run, **options):
    known = {"run": run, "version": "echo 1", "stages": ["embedding"]}
    return load("command", model, **{**known, **options})


def test_what_a_program_wrote_is_shaped_by_the_models_own_configuration(qwen2_tiny):
    seen = record(fake(qwen2_tiny, write(EMBEDDING)), PROMPT, ONLY_EMBEDDING)

    tensor = seen.tensors[Site(0, None, "embedding")]
    assert (tensor.dims, tensor.array.shape, tensor.positions) == ("t d", (6, 128), tuple(range(6)))


def test_safetensors_and_npy_are_read_too(qwen2_tiny):
    values = np.arange(6 * 128, dtype=np.float32).reshape(6, 128)
    lines = (
        "import numpy as np",
        "np.save(out / 'embedding.npy', np.arange(768, dtype=np.float32).reshape(6, 128))",
    )

    seen = record(fake(qwen2_tiny, write(*lines)), PROMPT, ONLY_EMBEDDING)

    np.testing.assert_array_equal(seen.tensors[Site(0, None, "embedding")].array, values)


def test_a_format_that_was_promised_is_the_one_that_is_read(qwen2_tiny):
    seen = record(fake(qwen2_tiny, write(EMBEDDING), format="aprt"), PROMPT, ONLY_EMBEDDING)

    assert len(seen.tensors) == 1
    with pytest.raises(CaptureError, match="wrote no tensors"):
        record(fake(qwen2_tiny, write(EMBEDDING), format="npy"), PROMPT, ONLY_EMBEDDING)


OLD = f"{EMBEDDING}\nimport os\nos.utime(out / 'embedding.bin', (1, 1))"
SHORT = f"(out / 'embedding.bin').write_bytes({APRT.format(layer=0xFFFFFFFF, count=5 * 128)})"
LYING = f"(out / 'embedding.bin').write_bytes(({APRT.format(layer=0xFFFFFFFF, count=768)})[:-4])"
OTHER = f"(out / 'lm_head.bin').write_bytes({APRT.format(layer=0xFFFFFFFF, count=768)})"


@pytest.mark.parametrize(
    ("run", "what"),
    [
        (write(OTHER), "1 stage that it promised is missing: 0/-/embedding"),
        (write(OLD), "1 file is stale, written before this run"),
        (write(SHORT), "0/-/embedding has 640 values"),
        (write(LYING), "states 768 values, and has 3068 bytes"),
        (write("pass"), "the program wrote no tensors"),
        ("echo {out} {model} {tokens}; echo it broke >&2; exit 3", "ended with status 3: it broke"),
    ],
    ids=["missing", "stale", "short", "truncated", "nothing", "fails"],
)
def test_a_promise_that_is_not_kept_is_an_error_that_names_it(qwen2_tiny, run, what):
    with pytest.raises(CaptureError, match=what):
        record(fake(qwen2_tiny, run), PROMPT, ONLY_EMBEDDING)


def test_a_program_that_hangs_is_stopped(qwen2_tiny):
    session = fake(qwen2_tiny, "sleep 30 # {out} {model} {tokens}", timeout=0.2)

    with pytest.raises(CaptureError, match=r"did not end within 0\.2 s"):
        record(session, PROMPT, ONLY_EMBEDDING)


def test_a_folder_of_the_programs_own_is_read_only_when_this_run_wrote_it(qwen2_tiny, tmp_path):
    np.save(tmp_path / "embedding.npy", np.zeros((6, 128), np.float32))
    os.utime(tmp_path / "embedding.npy", (1, 1))

    def made_by(run):
        run = f"{run} # {{model}} {{tokens}}"
        return record(fake(qwen2_tiny, run, out=str(tmp_path)), PROMPT, ONLY_EMBEDDING)

    with pytest.raises(CaptureError, match="stale"):
        made_by("true")
    assert len(made_by(f"touch {tmp_path}/embedding.npy").tensors) == 1


def test_a_program_that_is_not_here_is_blocked_with_what_provides_it(qwen2_tiny):
    with pytest.raises(Blocked, match="its program is not here") as caught:
        fake(qwen2_tiny, "x {model} {tokens} {out}", version="./no-such -v", provide="make it")

    assert caught.value.remedy == "make it"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"run": ""}, "does not say what to run"),
        ({"stages": []}, "does not say what to run"),
        ({"version": None}, "does not say which program it is"),
        ({"run": "x {model} {token} {out}"}, "`{token}` is no placeholder"),
        ({"run": "x {model}"}, r"`run` has no \{tokens\}, \{out\}"),
        ({"sources": ["*.none"]}, r"there is no file \*\.none"),
    ],
)
def test_a_capture_that_does_not_say_enough_is_refused(qwen2_tiny, options, what):
    known = {"run": "x {model} {tokens} {out}", "version": "echo 1", "stages": ["embedding"]}
    given_ = {key: value for key, value in {**known, **options}.items() if value is not None}

    with pytest.raises(ContractError, match=what):
        load("command", qwen2_tiny, **given_)


def test_a_stage_that_was_not_promised_is_refused_before_anything_runs(qwen2_tiny):
    session = fake(qwen2_tiny, "exit 9 # {out} {model} {tokens}")

    with pytest.raises(CaptureError, match="does not show stage `ffn_up`"):
        record(session, PROMPT, Plan(stages=("ffn_up",)))


def test_without_logits_there_is_no_answer_and_nothing_is_decoded(qwen2_tiny):
    session = fake(qwen2_tiny, write(EMBEDDING))

    with pytest.raises(CaptureError, match="without `lm_head`"):
        record(session, PROMPT, Plan())
    with pytest.raises(CaptureError, match="nothing can be decoded"):
        record(session, PROMPT, Plan(stages=("embedding",), decode_steps=1))


@given(st.dictionaries(st.sampled_from(PLACEHOLDERS), st.text(min_size=1), min_size=1))
def test_a_placeholder_becomes_one_word_of_the_shell_whatever_stands_in_it(values):
    import shlex

    words = [f"{{{name}}}" for name in values]

    assert shlex.split(filled(" ".join(words), values)) == list(values.values())


def test_other_braces_are_left_to_the_shell():
    assert filled("awk '{print}' ${out} {out}", {"out": "o"}) == "awk '{print}' ${out} o"
