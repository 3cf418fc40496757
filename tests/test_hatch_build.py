"""The build of the compiled core: which compiler, which variants, and what happens without one."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import hatch_build
from hatch_build import BuildError
from tests import cores

WORKING = "int lmu_answer(void) { return 42; }"


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")


def program(folder: Path, text: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_without_a_compiler_the_record_says_what_was_looked_for(no_compiler, tmp_path, capsys):
    (tmp_path / hatch_build.LIBRARY).touch()
    record = hatch_build.build(tmp_path)
    hatch_build.say(record)
    reason = "no C compiler was found (looked for cc, gcc, clang)"
    if sys.platform == "win32":
        reason = "no C compiler was found (looked for clang)"
    assert record == {"built": False, "reason": reason}
    assert json.loads((tmp_path / hatch_build.RECORD).read_text()) == record
    assert capsys.readouterr().err == f"compiled core left out: {reason}\n"
    assert [path.name for path in tmp_path.iterdir()] == [hatch_build.RECORD]  # nothing stale


def test_a_compiler_that_is_named_and_missing_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(BuildError, match="CC is 'no-such-compiler'"):
        hatch_build.find_compiler()


def test_the_command_says_that_it_failed(no_compiler, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hatch_build.py", "--folder", str(tmp_path / "new")])
    assert hatch_build.main() == 1
    assert "left out" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="a script is no program there")
def test_a_compiler_that_fails_leaves_the_core_out(monkeypatch, tmp_path, capfd):
    text = """
import sys
if "-dumpmachine" in sys.argv:
    print("x86_64-linux-gnu")
else:
    print("x.c:1:2: error: no such thing", file=sys.stderr)
    sys.exit(1)
"""
    monkeypatch.setenv("CC", program(tmp_path, text))
    record = hatch_build.build(tmp_path)
    assert record["reason"].endswith("compiler failed: x.c:1:2: error: no such thing")
    assert "no such thing" in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="a script is no program there")
def test_a_program_that_is_no_compiler_leaves_the_core_out(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", program(tmp_path, "raise SystemExit(3)"))
    assert "does not say what it compiles for" in hatch_build.build(tmp_path)["reason"]


def test_a_source_that_does_not_compile_leaves_the_library_of_before(tmp_path):
    source, target = tmp_path / "machine.c", tmp_path / "core.so"
    target.write_text("before")
    source.write_text("wrong")
    with pytest.raises(BuildError, match="error"):
        hatch_build.compile_library(target, [source], cores.compiler())
    assert target.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_library_is_replaced_whole(tmp_path):
    source, target = tmp_path / "machine.c", tmp_path / "core.so"
    source.write_text(WORKING)
    target.write_text("before")
    with target.open() as before:
        hatch_build.compile_library(target, [source], cores.compiler())
        assert before.read() == "before"  # a process that has loaded it keeps it
    assert target.read_bytes() != b"before"
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_built_already_is_taken(tmp_path, monkeypatch):
    cores.compiler()
    first, second = tmp_path / "first", tmp_path / "second"
    calls = []

    def compile_library(target, sources, compiler, extra):
        calls.append(extra)
        target.write_text("library")

    monkeypatch.setattr(hatch_build, "compile_library", compile_library)
    sources = shutil.copytree(hatch_build.FOLDER, first, ignore=shutil.ignore_patterns("_core.so"))
    monkeypatch.setattr(hatch_build, "FOLDER", sources)
    second.mkdir()
    record = hatch_build.build(first)
    assert hatch_build.build(second) == record == hatch_build.build(first)
    assert calls == [()]
    assert (second / hatch_build.LIBRARY).read_text() == "library"
    hatch_build.build(second, ["-O0"])
    assert calls == [(), ["-O0"]]
    (first / "c" / "lmu.h").write_text("changed")
    hatch_build.build(second)
    assert len(calls) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_every_variant_compiles_without_warnings(name, monkeypatch, tmp_path):
    monkeypatch.setenv("CC", name)
    cores.compiler()  # skips where it is missing
    record = hatch_build.build(tmp_path, ["-Werror"])
    assert record["built"], record
    assert record["variants"] == list(cores.VARIANTS)


def test_variants_are_those_of_the_processor():
    assert list(hatch_build.variants_of("x86_64")) == ["avx512", "avx2", "baseline"]
    assert list(hatch_build.variants_of("aarch64")) == ["neon"]
    assert list(hatch_build.variants_of("riscv64")) == ["baseline"]
    assert hatch_build.architecture("AMD64") == "x86_64"
    assert hatch_build.architecture("arm64") == "aarch64"


def test_a_library_for_two_processors_is_refused():
    command = ["clang", "-arch", "arm64", "-arch", "x86_64"]
    with pytest.raises(BuildError, match=r"one processor.*'arm64', 'x86_64'"):
        hatch_build.architecture_of(command)
    assert hatch_build.architecture_of(command[:3]) == "aarch64"


def test_wheels_of_macos_are_named_by_the_oldest_system(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delenv("MACOSX_DEPLOYMENT_TARGET", raising=False)
    assert hatch_build.platform_tag("aarch64") == "macosx_11_0_arm64"
    monkeypatch.setenv("MACOSX_DEPLOYMENT_TARGET", "13.3")
    assert hatch_build.platform_tag("x86_64") == "macosx_13_3_x86_64"


def test_the_build_needs_no_package(tmp_path):
    """As a command in a clone, by a Python that has neither hatchling nor PyTorch."""
    cores.compiler()
    command = [sys.executable, "-I", "-S", hatch_build.__file__, "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "compiled core built for" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {hatch_build.LIBRARY, hatch_build.RECORD}
