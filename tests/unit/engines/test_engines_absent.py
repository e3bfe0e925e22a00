"""What is absent here blocks, and says the command that would provide it."""

from __future__ import annotations

import pytest

from pytest_falsify.contracts.model import CaptureSpec, Target
from pytest_falsify.engines import device as device_module
from pytest_falsify.engines import transformers as transformers_module
from pytest_falsify.engines.device import parse_memory, resolve_device
from pytest_falsify.engines.model_files import model_folder, weight_files, weights_digest
from pytest_falsify.engines.registry import engine, engine_names
from pytest_falsify.errors import Blocked, CaptureError, ContractError, FalsifyError


def target(**more):
    return Target(**({"name": "here", "model": "./m", "line": 1} | more))


def test_an_engine_whose_libraries_are_absent_is_blocked_with_the_install_command(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(transformers_module, "find_spec", lambda _: None)
    spec = CaptureSpec(name="c", engine="transformers", line=1)

    with pytest.raises(Blocked, match="not installed") as caught:
        engine("transformers").load(target(), spec, root=tmp_path, device="cpu")

    assert caught.value.remedy == "pip install 'pytest-falsify[hf]'"


def test_an_unknown_engine_is_refused_and_the_known_ones_are_named():
    with pytest.raises(FalsifyError, match="unknown engine") as caught:
        engine("torchscript")

    assert all(name in str(caught.value) for name in engine_names())


def test_a_hub_model_that_is_not_in_the_cache_is_blocked_with_its_download(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(Blocked, match="not in the local cache") as caught:
        model_folder(target(model="nobody/nothing-at-all", revision="abc"), tmp_path)

    assert caught.value.remedy == "hf download nobody/nothing-at-all --revision abc"


def test_a_missing_folder_is_a_mistake_unless_the_target_says_what_provides_it(tmp_path):
    with pytest.raises(CaptureError, match=r"there is no model at \./m"):
        model_folder(target(), tmp_path)
    with pytest.raises(Blocked) as caught:
        model_folder(target(provide="make m"), tmp_path)

    assert caught.value.one_line.endswith("; to mend: make m")


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CaptureError, match="no safetensors weights"):
        weight_files(tmp_path)


def test_the_weights_digest_follows_the_content(tmp_path, qwen2_tiny):
    import shutil

    copy = shutil.copytree(qwen2_tiny, tmp_path / "copy")
    before = weights_digest(copy)
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(data))

    assert before == weights_digest(qwen2_tiny)
    assert before != weights_digest(copy)


def test_a_device_that_is_not_here_is_blocked_and_the_reason_names_no_machine():
    with pytest.raises(Blocked) as caught:
        resolve_device(target(device="cuda:99"))

    assert caught.value.what == "target `here` needs CUDA device 99, which is not here"
    assert "-m gpu" in caught.value.one_line


def test_auto_takes_the_cpu_where_there_is_nothing_better(monkeypatch):
    monkeypatch.setattr(device_module, "_cuda_count", lambda: 0)

    assert resolve_device(target(device="auto")) == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "mps", ""])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ContractError, match="unknown device"):
        resolve_device(target(device=device))


def test_a_target_that_needs_more_memory_than_is_free_is_blocked():
    assert resolve_device(target(memory="1KiB")) == "cpu"
    with pytest.raises(Blocked, match="needs 4096TiB on cpu"):
        resolve_device(target(memory="4096TiB"))


@pytest.mark.parametrize(
    ("text", "size"), [("1KiB", 1024), ("1.5 MiB", 3 << 19), ("24GiB", 24 << 30)]
)
def test_memory_is_read_in_binary_units(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["24GB", "GiB", "-1GiB", "24", ""])
def test_memory_without_a_binary_unit_is_refused(text):
    with pytest.raises(ContractError, match="not an amount of memory"):
        parse_memory(text)
