"""Of a multimodal model the text decoder is loaded: it answers as the whole does, to the bit."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from engines_support import load  # noqa: E402

from pytest_falsify.captures.capture import TokenInputs  # noqa: E402
from pytest_falsify.captures.plan import Plan  # noqa: E402
from pytest_falsify.captures.record import record  # noqa: E402
from pytest_falsify.engines.checkpoint import skeleton  # noqa: E402
from pytest_falsify.stages.graph import StageGraph  # noqa: E402

PROMPT = TokenInputs(name="p", tokens=(1, 5, 9, 3, 60, 2, 2))
TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Gemma-3 that sees, with random weights."""
    torch.manual_seed(0)
    config = transformers.Gemma3Config(
        text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4, image_token_index=63
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    path = tmp_path_factory.mktemp("gemma3")
    model.save_pretrained(path)
    return path


def test_the_text_decoder_is_captured_and_its_logits_are_those_of_the_whole(folder):
    whole = transformers.Gemma3ForConditionalGeneration.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        expected = whole(input_ids=torch.tensor([PROMPT.tokens])).logits[0]

    session = load("transformers", folder)
    capture = record(session, PROMPT, Plan(stages=(*session.stages, *session.on_request)))

    assert capture.missing == ()
    assert {"attn_post_norm", "ffn_post_norm", "attn_softmax"} <= {
        site.stage for site in capture.tensors
    }
    assert capture.logits[0].tobytes() == expected.numpy().tobytes()


def test_its_stages_are_listed_without_its_weights(folder):
    graph = StageGraph.of(skeleton(folder, "eager"))

    assert graph.layer_count == 2
    assert "ffn_post_norm" in {site.stage for site in graph.sites()}
