"""A user's own program transfers the cache: what it brings arrives, and what it loses is told."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from disaggregation_support import open_session, prompt, watching

from pytest_falsify._loading import must_be_options
from pytest_falsify.captures.record import record
from pytest_falsify.disaggregation.arrival import must_be_as_sent
from pytest_falsify.disaggregation.caches import LayerCache
from pytest_falsify.disaggregation.legs import transferred
from pytest_falsify.disaggregation.programs import Program
from pytest_falsify.disaggregation.transfer import Transfer
from pytest_falsify.engines.registry import engine, runs_commands
from pytest_falsify.errors import Blocked, CaptureError, ContractError
from pytest_falsify.stages.vocabulary import TRANSFER, Site

torch = pytest.importorskip("torch")
COPY = ["cp", "{sent}", "{received}"]
LOSES = """\
import sys
from safetensors.numpy import load_file, save_file

tensors = load_file(sys.argv[1])
name = "1.k.0.values.1"
tensors[name] = 0 * tensors[name]
save_file(tensors, sys.argv[2])
"""
TENSORS = {
    "0.k.0.values.0": torch.arange(24).reshape(2, 3, 4).to(torch.bfloat16),
    "0.k.0.scale.0": torch.ones(2, 1, 1),
    "0.v.0.values.0": torch.arange(24).reshape(2, 3, 4).to(torch.float8_e4m3fn),
    "0.v.0.values.1": torch.arange(24).reshape(2, 3, 4).to(torch.int8),
}


def program(folder, *words, timeout=60):
    return Program.of({"command": list(words), "timeout": timeout}, folder)


def script(folder, text):
    path = folder / "transfer.py"
    path.write_text(text)
    return path


def served(folder, root, *, sources=("transfer.py",), command=COPY, **transfer):
    """Open a session whose contract stands in a folder of its own."""
    options = {"transfer": {**transfer, "through": {"command": command}}}
    return open_session("disaggregated", folder, root=root, sources=list(sources), **options)


def test_every_bit_of_every_dtype_arrives(tmp_path):
    arrived = program(tmp_path, *COPY)(TENSORS)
    assert set(arrived) == set(TENSORS)
    for name, sent in TENSORS.items():
        assert arrived[name].dtype == sent.dtype
        assert torch.equal(arrived[name].view(torch.uint8), sent.view(torch.uint8))


def test_words_are_not_read_by_a_shell(tmp_path):
    text = "import shutil, sys; assert sys.argv[1] == '$HOME; *'; shutil.copy(*sys.argv[2:])"
    arrived = program(tmp_path, sys.executable, "-c", text, "$HOME; *", "{sent}", "{received}")
    assert set(arrived(TENSORS)) == set(TENSORS)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda found: found.pop("a"), r"lost 1 of 2 tensors: a\n"),
        (lambda found: found.update(c=found["a"]), r"made up 1 of 2 tensors: c\n"),
        (
            lambda found: found.update(b=found["b"].to(torch.float16)),
            r"changed 1 of 2 tensors: b \(float16 \[2, 3\] instead of float32 \[2, 3\]\)",
        ),
        (lambda found: found.update(b=found["b"][:1]), r"b \(float32 \[1, 3\] instead of"),
        (lambda found: found.update(b=None), r"b \(NoneType instead of"),
        (dict.clear, r"lost 2 of 2 tensors: a, b\n"),
    ],
)
def test_a_tensor_that_is_lost_made_up_or_changed_is_named(change, told):
    sent = {"a": torch.zeros(4), "b": torch.zeros(2, 3)}
    arrived = dict(sent)
    change(arrived)
    with pytest.raises(CaptureError, match=told):
        must_be_as_sent(sent, arrived, "the transfer")


def test_of_many_lost_tensors_the_first_are_named():
    with pytest.raises(CaptureError, match=r"lost 9 of 9 tensors: 0, 1, 2, 3, 4, \.\.\."):
        must_be_as_sent({str(number): torch.zeros(1) for number in range(9)}, {}, "it")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sh", "-c", "echo no room >&2; exit 3 # {sent} {received}"], "status 3: no room"),
        (["true", "{sent}", "{received}"], "wrote nothing"),
        (["sh", "-c", "head -c 40 {sent} > {received}"], "safetensors"),
    ],
)
def test_a_program_that_fails_says_how(tmp_path, words, told):
    with pytest.raises(CaptureError, match=told):
        program(tmp_path, *words)(TENSORS)


def test_a_program_that_takes_too_long_is_stopped(tmp_path):
    slow = program(tmp_path, "sh", "-c", "sleep 60 # {sent} {received}", timeout=0.2)
    with pytest.raises(CaptureError, match=r"did not end within 0\.2 s"):
        slow(TENSORS)


def test_a_program_that_is_not_here_blocks(tmp_path):
    with pytest.raises(Blocked, match=r"\./nothing cannot be started"):
        program(tmp_path, "./nothing", "{sent}", "{received}")(TENSORS)


def test_a_command_that_does_not_name_both_files_is_refused(tmp_path):
    with pytest.raises(ContractError, match=r"has no \{received\}"):
        program(tmp_path, "cat", "{sent}")


def without_keys(tensors):
    return {name: each for name, each in tensors.items() if ".k." not in name}


def test_what_a_function_loses_is_named_too():
    transfer = Transfer(options={"through": f"{__name__}:without_keys"})
    half = torch.zeros(2, 3, 4)
    with pytest.raises(CaptureError, match=r"the user's own transfer lost 1 of 2 tensors: 5\.k\."):
        transfer.packed({5: LayerCache(keys=half, values=half, length=3)})


def raising(_tensors):
    msg = "on purpose"
    raise RuntimeError(msg)


def test_a_function_that_fails_or_is_none_is_told_with_its_line(families):
    with pytest.raises(CaptureError, match=r"on purpose\n.*mend it at .*programs\.py:\d+"):
        Transfer(options={"through": f"{__name__}:raising"}).packed({})
    session = open_session("disaggregated", families["llama"], transfer={"through": "os:getcwd"})
    with pytest.raises(CaptureError, match=r"the user's own transfer failed: TypeError"):
        record(session, prompt(), watching())
    with pytest.raises(CaptureError, match="the user's own transfer failed: TypeError"):
        Transfer(options={"through": "builtins:print"}).packed({})
    with pytest.raises(CaptureError, match="`builtins:int` failed: TypeError"):
        open_session("disaggregated", families["llama"], prefill={"setup": "builtins:int"})


def test_nothing_can_be_put_in_the_way_of_what_a_hook_watches():
    must_be_options("hook", {"hook": "a:b", "layers": 1, "transfer": {"codec": "fp8"}})
    with pytest.raises(ContractError, match="through"):
        must_be_options("hook", {"hook": "a:b", "layers": 1, "transfer": {"through": "a:b"}})


def test_a_program_in_the_way_of_a_real_cache_changes_nothing_when_it_is_honest(families, tmp_path):
    script(tmp_path, "")
    seen = record(served(families["llama"], tmp_path, streamed=True), prompt(), watching())
    for layer in range(3):
        sent, arrived = (seen.tensors[Site(step, layer, "k_cache")].array for step in (0, TRANSFER))
        np.testing.assert_array_equal(arrived, sent)
    assert transferred(seen) == ()


def test_a_program_that_drops_a_block_is_found(families, tmp_path):
    script(tmp_path, LOSES)
    command = [sys.executable, "transfer.py", "{sent}", "{received}"]
    seen = record(
        served(families["llama"], tmp_path, command=command, block=4), prompt(), watching()
    )
    (found,) = transferred(seen)
    assert found.site == Site(TRANSFER, 1, "k_cache")
    assert found.position == 4


def test_the_identity_follows_the_programs_sources(families, tmp_path):
    def identity():
        return served(families["llama"], tmp_path).identity().digest

    script(tmp_path, "one")
    first = identity()
    assert identity() == first
    script(tmp_path, "two")
    assert identity() != first


def test_a_program_without_sources_is_refused(families, tmp_path):
    with pytest.raises(ContractError, match="does not say which files its transfer is made of"):
        served(families["llama"], tmp_path, sources=())
    with pytest.raises(ContractError, match=r"there is no file gone\.py"):
        served(families["llama"], tmp_path, sources=["gone.py"])


def test_only_a_transfer_by_a_program_takes_permission():
    named = engine("disaggregated")
    assert not runs_commands(named, {})
    assert not runs_commands(named, {"transfer": {"codec": "int8", "through": "mine:function"}})
    assert runs_commands(named, {"transfer": {"through": {"command": COPY}}})
    assert runs_commands(engine("command"), {"run": "x"})
    assert not runs_commands(engine("transformers"), {})
