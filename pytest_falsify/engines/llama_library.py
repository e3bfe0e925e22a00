"""llama.cpp's C interface through ctypes: one pinned build, whose structs are proven before use.

The library is the one inside the wheel of ``xllamacpp``, which exports llama.cpp's own functions.
A struct is passed by value, so one that lies otherwise than is written here would be garbage: the
build must be the pinned one, its defaults must read as they do there, and every tensor's size must
be the one that its own shape gives.
"""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_float, c_int8, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytest_falsify.errors import Blocked, CaptureError

PACKAGE = "xllamacpp"
PINNED = "2026.10.11549"
INSTALL = "pip install 'pytest-falsify[llama]'"
LIBRARY = "xllamacpp.abi3.so"

Callback = ctypes.CFUNCTYPE(c_bool, c_void_p, c_bool, c_void_p)
Log = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)


class ModelParameters(ctypes.Structure):
    """``struct llama_model_params``."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class ContextParameters(ctypes.Structure):
    """``struct llama_context_params``."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int32),
        ("rope_scaling_type", c_int32),
        ("pooling_type", c_int32),
        ("attention_type", c_int32),
        ("flash_attn_type", c_int32),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("moe_cache_size", c_size_t),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class Batch(ctypes.Structure):
    """``struct llama_batch``."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", ctypes.POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", ctypes.POINTER(c_int32)),
        ("n_seq_id", ctypes.POINTER(c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(c_int32))),
        ("logits", ctypes.POINTER(c_int8)),
    )


class Tensor(ctypes.Structure):
    """The head of ``struct ggml_tensor``."""

    _fields_ = (
        ("type", c_int32),
        ("buffer", c_void_p),
        ("ne", c_int64 * 4),
        ("nb", c_size_t * 4),
    )


MODEL_DEFAULTS = {
    "n_gpu_layers": -1,
    "split_mode": 1,
    "load_mode": -1,
    "lazy_mode": 1,
    "main_gpu": 0,
    "tensor_split": None,
    "kv_overrides": None,
    "vocab_only": False,
    "check_tensors": False,
    "use_extra_bufts": True,
    "no_host": False,
    "no_alloc": False,
    "load_mtp": False,
}
CONTEXT_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_outputs_max_per_seq": 1,
    "n_threads": 4,
    "rope_scaling_type": -1,
    "flash_attn_type": -1,
    "yarn_ext_factor": -1.0,
    "defrag_thold": -1.0,
    "type_k": 1,
    "type_v": 1,
    "offload_kqv": True,
    "no_perf": True,
    "op_offload": True,
    "swa_full": True,
    "kv_unified": False,
    "samplers": None,
    "n_samplers": 0,
    "ctx_other": None,
}
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_backend_tensor_get": (None, (c_void_p, c_void_p, c_size_t, c_size_t)),
    "ggml_get_name": (c_char_p, (c_void_p,)),
    "ggml_nbytes": (c_size_t, (c_void_p,)),
    "ggml_op_desc": (c_char_p, (c_void_p,)),
    "llama_backend_init": (None, ()),
    "llama_batch_free": (None, (Batch,)),
    "llama_batch_init": (Batch, (c_int32, c_int32, c_int32)),
    "llama_context_default_params": (ContextParameters, ()),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_free": (None, (c_void_p,)),
    "llama_get_logits": (ctypes.POINTER(c_float), (c_void_p,)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParameters)),
    "llama_log_set": (None, (Log, c_void_p)),
    "llama_model_default_params": (ModelParameters, ()),
    "llama_model_free": (None, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParameters)),
    "llama_model_n_ctx_train": (c_int32, (c_void_p,)),
    "llama_model_n_embd": (c_int32, (c_void_p,)),
    "llama_model_n_head": (c_int32, (c_void_p,)),
    "llama_model_n_head_kv": (c_int32, (c_void_p,)),
    "llama_model_n_layer": (c_int32, (c_void_p,)),
    "llama_model_rope_type": (c_int32, (c_void_p,)),
    "llama_model_meta_val_str": (c_int32, (c_void_p, c_char_p, c_char_p, c_size_t)),
    "llama_n_ctx": (c_uint32, (c_void_p,)),
    "llama_n_ubatch": (c_uint32, (c_void_p,)),
    "llama_tokenize": (
        c_int32,
        (c_void_p, c_char_p, c_int32, ctypes.POINTER(c_int32), c_int32, c_bool, c_bool),
    ),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
}


class Library:
    """The loaded library, with its functions by name.

    Attributes:
        log: the last lines that it wrote, for the errors that it only tells there.
    """

    def __init__(self, path: Path) -> None:
        loaded = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self.log: list[str] = []
        self._keep = Log(self._logged)
        self.call("llama_log_set", self._keep, None)
        self.call("llama_backend_init")

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the interface."""
        return getattr(self, name)(*arguments)

    def _logged(self, _level: int, text: bytes | None, _data: Any) -> None:
        self.log.append((text or b"").decode(errors="replace").strip())
        del self.log[:-50]

    def why(self) -> str:
        """Return the last thing that it complained of."""
        told = [line for line in self.log if "error" in line or "failed" in line]
        return told[-1] if told else "it gives no reason"


@cache
def library() -> Library:
    """Return the pinned library, once its structs are proven to lie as they are written here.

    Raises:
        Blocked: when it is not installed.
        CaptureError: when it is another build, or a struct lies otherwise.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        msg = f"engine llama.cpp: {PACKAGE} is not installed"
        raise Blocked(msg, remedy=INSTALL)
    found = version(PACKAGE)
    if found != PINNED:
        msg = f"engine llama.cpp: {PACKAGE} {found} is installed, whose structs are not known"
        raise CaptureError(
            msg, expected=f"{PACKAGE} {PINNED}", remedy=f"pip install {PACKAGE}=={PINNED}"
        )
    loaded = Library(Path(spec.submodule_search_locations[0]) / LIBRARY)
    must_lie_as_written(loaded.call("llama_model_default_params"), MODEL_DEFAULTS)
    must_lie_as_written(loaded.call("llama_context_default_params"), CONTEXT_DEFAULTS)
    return loaded


def must_lie_as_written(found: ctypes.Structure, defaults: dict[str, Any]) -> None:
    """Refuse a struct whose defaults do not stand where they should.

    Raises:
        CaptureError: with the first field that reads otherwise.
    """
    for name, expected in defaults.items():
        if (value := getattr(found, name)) != expected:
            msg = f"engine llama.cpp: {type(found).__name__}.{name} reads {value}"
            raise CaptureError(
                msg,
                expected=f"{expected}, as in {PACKAGE} {PINNED}",
                remedy=f"pip install {PACKAGE}=={PINNED}",
            )
