"""Captures that outlive a test run are kept for this machine, this code and this environment."""

from __future__ import annotations

import pytest

from pytest_falsify import _captures
from pytest_falsify._captures import lasting_scope


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "TORCH_BLAS"])
def test_what_the_environment_tells_libraries_is_part_of_it(name):
    assert len({lasting_scope({}), lasting_scope({name: "1"}), lasting_scope({name: "2"})}) == 3


def test_what_it_tells_others_is_not():
    assert lasting_scope({}) == lasting_scope({"HOME": "/home/me", "CI": "1"})


def test_the_code_that_looks_at_models_is_part_of_it(monkeypatch):
    usual = lasting_scope({})
    monkeypatch.setattr(_captures, "_ROOMS", ("captures", "engines"))

    assert lasting_scope({}) != usual
