"""Engines by name. A package offers one under the entry-point group ``pytest_falsify.engines``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_falsify.plugins import Parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_falsify.engines.base import Engine

BUILT_IN = {
    "command": "pytest_falsify.engines.command:CommandEngine",
    "disaggregated": "pytest_falsify.disaggregation.engine:DisaggregatedEngine",
    "hook": "pytest_falsify.disaggregation.hook_engine:HookEngine",
    "llama.cpp": "pytest_falsify.engines.llama_cpp:LlamaCppEngine",
    "onnxruntime": "pytest_falsify.engines.onnxruntime:OnnxRuntimeEngine",
    "openai": "pytest_falsify.engines.openai:OpenAIEngine",
    "python": "pytest_falsify.engines.python:PythonEngine",
    "recorded": "pytest_falsify.engines.recorded:RecordedEngine",
    "transformers": "pytest_falsify.engines.transformers:TransformersEngine",
}
ENGINES: Parts[Engine] = Parts("engine", group="pytest_falsify.engines", built_in=BUILT_IN)
engine_names = ENGINES.names
engine = ENGINES.get


def runs_commands(named: Engine, options: Mapping[str, Any]) -> bool:
    """Tell whether a capture by an engine runs a command, which takes permission.

    Args:
        named: its `runs_commands` says it of all captures, or is a function of a capture's options.
        options: the capture's.
    """
    said = getattr(named, "runs_commands", False)
    return bool(said(options)) if callable(said) else bool(said)
