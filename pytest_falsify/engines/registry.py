"""Engines by name. A package offers one under the entry-point group ``pytest_falsify.engines``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_falsify.plugins import Parts

if TYPE_CHECKING:
    from pytest_falsify.engines.base import Engine

BUILT_IN = {
    "command": "pytest_falsify.engines.command:CommandEngine",
    "disaggregated": "pytest_falsify.disaggregation.engine:DisaggregatedEngine",
    "hook": "pytest_falsify.disaggregation.hook_engine:HookEngine",
    "llama.cpp": "pytest_falsify.engines.llama_cpp:LlamaCppEngine",
    "onnxruntime": "pytest_falsify.engines.onnxruntime:OnnxRuntimeEngine",
    "python": "pytest_falsify.engines.python:PythonEngine",
    "recorded": "pytest_falsify.engines.recorded:RecordedEngine",
    "transformers": "pytest_falsify.engines.transformers:TransformersEngine",
}
ENGINES: Parts[Engine] = Parts("engine", group="pytest_falsify.engines", built_in=BUILT_IN)
engine_names = ENGINES.names
engine = ENGINES.get
