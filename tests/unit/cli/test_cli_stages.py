"""`pytest-falsify stages MODEL`: the map of a model's stages, without its weights."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from pytest_falsify.cli import main  # noqa: E402
from pytest_falsify.stages.vocabulary import STAGES  # noqa: E402

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
MIXED = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "mlp_only_layers": [0],
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}


def run(*arguments, status=0):
    result = CliRunner().invoke(main, ["stages", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture
def configured(tmp_path):
    """Write the configuration of a model, and nothing else."""

    def write(kind, **options):
        getattr(transformers, f"{kind}Config")(**SIZES, **options).save_pretrained(tmp_path)
        return tmp_path

    return write


def rows(found):
    return {each["stage"]: each for each in found["stages"]}


def test_the_map_says_where_a_stage_is_seen_what_it_is_made_of_and_when_it_is_shown(qwen2_tiny):
    lines = run(qwen2_tiny).splitlines()

    def line(stage):
        return " ".join(next(each for each in lines if f"  {stage} " in each).split())

    assert lines[0] == "qwen2: 22 stages"
    assert line("embedding") == "embedding t d - model.embed_tokens tokens always"
    assert line("qkv_matmul").endswith("self_attn.q_proj+k_proj+v_proj attn_norm on request")
    assert line("attn_softmax").endswith("attn_scores on request, eager only")
    assert line("ffn_swigl").endswith("mlp.down_proj, input ffn_silu, ffn_up always")
    assert "moe_router_logits" in lines[-1]
    assert "ffn_gate" not in lines[-1]


def test_no_weights_are_needed_and_json_says_the_same(qwen2_tiny, tmp_path):
    shutil.copy(qwen2_tiny / "config.json", tmp_path)

    found = json.loads(run(tmp_path, "--json"))

    assert found == json.loads(run(qwen2_tiny, "--json"))
    assert found["model_type"] == "qwen2"
    assert found["without_rows"] == []
    assert {*rows(found), *found["unmapped"]} == set(STAGES)
    assert rows(found)["attn_out"] == {
        "stage": "attn_out",
        "dims": "t d",
        "layers": [0, 1, 2, 3],
        "seen": "model.layers.{i}.self_attn.o_proj",
        "inputs": ["attention"],
        "shown": "always",
    }


def test_layers_of_two_kinds_have_a_row_each(configured):
    found = json.loads(run(configured("Qwen2Moe", **MIXED), "--json"))

    outs = [(row["layers"], row["inputs"]) for row in found["stages"] if row["stage"] == "ffn_out"]
    assert outs == [([0], ["ffn_swigl"]), ([1, 2], ["moe_ffn_out", "ffn_norm"])]
    assert rows(found)["ffn_gate"]["layers"] == [0]
    assert rows(found)["moe_router"]["layers"] == [1, 2]


def test_a_part_of_a_fused_projection_is_told(configured):
    found = rows(json.loads(run(configured("Phi3", pad_token_id=0), "--json")))

    assert found["ffn_gate"]["seen"] == "model.layers.{i}.mlp.gate_up_proj, part 1 of 2"
    assert found["ffn_up"]["seen"] == "model.layers.{i}.mlp.gate_up_proj, part 2 of 2"
    assert found["qkv_matmul"]["seen"] == "model.layers.{i}.self_attn.qkv_proj"


def test_of_an_unknown_model_every_module_is_listed_and_what_could_not_be_mapped(configured):
    folder = configured("GPTNeoX")

    found = json.loads(run(folder, "--json"))
    lines = run(folder).splitlines()

    names = [row["stage"] for row in found["stages"]]
    inner = "module:gpt_neox.layers.0.mlp.dense_h_to_4h"
    assert names.index(inner) < names.index("module:gpt_neox.layers.0")
    assert names[-1] == "lm_head"
    assert found["is_known"] is False
    assert {*found["unmapped"], "lm_head"} == set(STAGES)
    assert "its family is not known" in lines[1]
    assert any("could not be mapped" in line for line in lines)
    assert found["without_rows"][0] == "gpt_neox"
    assert {*names} & {f"module:{name}" for name in found["without_rows"]} == set()
    assert lines[-1].split(", ") == ["  gpt_neox", *found["without_rows"][1:]]


def test_an_absent_or_unusable_model_is_refused(tmp_path):
    assert "there is no model at" in run(tmp_path / "none", status=2)

    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')

    assert "transformers cannot load this model" in run(tmp_path, status=2)


def test_a_setting_that_changes_the_arithmetic_of_a_family_is_refused_by_name(configured):
    folder = configured("GPT2", reorder_and_upcast_attn=True)

    assert "`reorder_and_upcast_attn` on are not described" in run(folder, status=2)
