"""What to install when an optional package is missing, while there is no release to name."""

import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import lmu._extras
from lmu._extras import packages_of, require

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("extra", ["train", "keras", "hub", "onnx", "nir", "plot", "series"])
def test_the_command_names_the_packages_of_the_extra(extra: str) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    declared = re.search(rf"^{extra} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    assert declared is not None
    names = re.findall(r'"([\w-]+)[<>=]', declared[1].replace("_", "-"))
    assert sorted(re.findall(r'"([\w-]+)[<>=]', packages_of(extra))) == sorted(names)


def test_sources_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(lmu._extras, "requires", unknown)
    with pytest.raises(ImportError, match=r"nowhere not .*pip install '\.\[onnx\]' in a clone"):
        require("nowhere", extra="onnx")


def test_no_text_asks_for_a_release() -> None:
    for folder in ("src", "docs", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".md"}:
                assert "torch-lmu[" not in path.read_text(encoding="utf-8"), path
    assert "torch-lmu[" not in (ROOT / "README.md").read_text(encoding="utf-8")
