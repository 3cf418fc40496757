"""The core is found, fits its sources, and can be chosen, switched off and asked for."""

import shutil
from pathlib import Path

import pytest
import torch

import hatch_build
import lmu
from lmu.ops import native
from lmu.ops.native import _library
from lmu.ops.native._library import open_library
from tests import cores

X = torch.zeros(3)


def compile_core(folder: Path, change: str = "") -> Path:
    """A library of copies of the sources, of which it has only those that are compiled once."""
    shutil.copytree(hatch_build.FOLDER / "c", folder / "c")
    sources = [folder / "c" / name for name in hatch_build.ONCE]
    with sources[0].open("a", encoding="utf-8") as file:
        file.write(change)
    hatch_build.compile_library(folder / "core.so", sources, cores.compiler(), cores.flags)
    return folder / "core.so"


def test_status_tells_the_variant_and_the_threads(variant):
    status = lmu.native_status()
    assert status == native.native_status()
    assert (status.available, status.variant, status.reason) == (True, variant, "")
    assert status.threads
    assert status.path.is_file()


def test_variants_are_best_first_and_the_best_is_chosen(variant):
    with native.use("auto"):
        assert native.native_status().variant == native.variants()[0]
    assert variant in native.variants()
    assert list(native.variants()) == [v for v in cores.VARIANTS if v in native.variants()]


def test_the_core_can_be_switched_off():
    before = native.native_status()
    with native.use(None):
        status = native.native_status()
        assert (status.available, status.variant, status.threads) == (False, None, None)
        assert 'use("auto") switches it on' in status.reason
        assert not native.is_available(X)
        with pytest.raises(ValueError, match=r"not available: .* switched it off.*use method="):
            native.require(X)
    assert native.native_status() == before


def test_a_choice_lasts_without_a_block(variant):
    native.use(None)
    assert native.native_status().variant is None
    native.use(variant)
    assert native.native_status().variant == variant


def test_unknown_variants_are_refused():
    before = native.native_status()
    with pytest.raises(ValueError, match=r'"auto" or one of .*got \'sse\''):
        native.use("sse")
    assert native.native_status() == before


def test_kernels_take_floats_on_the_cpu(variant):
    assert native.is_available(X, X.double())
    native.require(X, X.double())
    for tensor, message in (
        (X.bfloat16(), "float32 or float64, but a tensor is torch.bfloat16: convert it"),
        (X.to("meta"), "on the CPU, but a tensor is on meta: move it"),
    ):
        assert not native.is_available(X, tensor)
        with pytest.raises(ValueError, match=message):
            native.require(X, tensor)


def test_the_compiler_traces_the_choice_and_follows_a_switch(variant):
    def where(x: torch.Tensor) -> torch.Tensor:
        if native.is_available(x):
            native.require(x)
            return x + 1
        return x - 1

    compiled = torch.compile(where, fullgraph=True, backend="eager")
    assert compiled(X).tolist() == [1, 1, 1]
    with native.use(None):
        assert compiled(X).tolist() == [-1, -1, -1]
    assert compiled(X).tolist() == [1, 1, 1]


def test_a_missing_library_says_how_to_build_it(tmp_path, monkeypatch):
    path, record = tmp_path / "core.so", tmp_path / "record.json"
    monkeypatch.setattr(_library, "RECORD", record)
    assert open_library(path).reason == f"it was not built: {_library.HOW}"
    record.write_text('{"built": false, "reason": "no C compiler was found (CC is \'x\')"}')
    reason = open_library(path).reason
    assert reason == f"built without: no C compiler was found (CC is 'x'); {_library.HOW}"
    record.write_text("{")
    assert open_library(path).reason == f"it was not built: {_library.HOW}"


def test_a_file_that_is_no_library_is_not_loaded(tmp_path):
    path = tmp_path / "core.so"
    path.write_text("no library")
    assert open_library(path).reason.startswith("it cannot be loaded: ")
    with pytest.raises(ValueError, match="cannot be loaded"):
        native.use("auto", library=path)


def test_a_library_of_other_sources_is_not_loaded(tmp_path):
    path = compile_core(tmp_path, "/* changed */")
    assert open_library(path).reason.startswith("it was built from other sources: run python")


def test_a_library_of_the_same_sources_is_loaded(tmp_path):
    library = open_library(compile_core(tmp_path))
    assert library.reason == ""
    assert library.variants


def test_without_sources_beside_it_a_library_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(_library, "SOURCES", tmp_path / "none")
    assert open_library(compile_core(tmp_path, "/* changed */")).reason == ""
