"""The README and the pages in docs: their code runs, and what they link to is there."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
# What torchrun sets for a single process; port 0 is any that is free.
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def blocks(page: Path) -> list[tuple[int, str]]:
    """The code of a page, and the number of lines before it."""
    text = page.read_text()
    return [(text[: m.start(1)].count("\n"), m[1]) for m in BLOCK.finditer(text)]


def anchors(text: str) -> set[str]:
    """The fragments by which the headings of a page are reached."""
    headings = (re.sub(r"[^\w\- ]", "", h.lower()) for h in HEADING.findall(FENCED.sub("", text)))
    return {heading.strip().replace(" ", "-") for heading in headings}


def functions(text: str) -> set[str]:
    """The functions of a module, and the methods of its classes."""
    nodes = ast.walk(ast.parse(text))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def leads_somewhere(link: str, page: Path, text: str) -> bool:
    """True if a file of this repository exists, and in it the named heading or function."""
    if "://" in link:
        return True
    name, _, fragment = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.is_relative_to(ROOT) or not (name == "" or target.exists()):
        return False
    if not fragment:
        return True
    text = target.read_text() if name else text
    return fragment in (functions(text) if target.suffix == ".py" else anchors(text))


def dead_links(page: Path, text: str) -> list[str]:
    links = LINK.findall(FENCED.sub("", text))
    return [link for link in links if not leads_somewhere(link, page, text)]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda page: page.name)
def test_code_runs(page, monkeypatch, tmp_path):
    for name in ("data", "results", "tests"):  # where pages look; nothing else is here
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    torch.manual_seed(0)
    namespace: dict[str, Any] = {"__name__": "docs"}
    try:
        for before, code in blocks(page):
            exec(compile("\n" * before + code, str(page), "exec"), namespace)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert not dead_links(page, page.read_text())


def test_a_dead_link_is_noticed():
    good = "[a](engine.md) [b](#one-two) [c](https://x.y/z) [d](engine.md#precision)"
    good += " [e](../tests/test_docs.py#test_code_runs) [f](../results)"
    bad = "[a](none.md) [b](#two) [c](../tests/test_docs.py#test_none) [d](../../other)"
    bad += " [e](engine.md#none)"
    text = f"# One `two`\n{good}\n```python\n[x](none)\n```\n{bad}\n"
    dead = dead_links(ROOT / "docs" / "page.md", text)
    assert dead == LINK.findall(bad)


def test_each_of_our_features_has_its_proof():
    """The last column of each table is ours: each cell has a link to a test, or says no."""
    text = (ROOT / "docs" / "features.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert {len(row) for row in rows} == {5}
    ours = {row[0]: row[-1] for row in rows if row[0] != "feature"}
    assert len(ours) > 50
    unproven = {name for name, cell in ours.items() if not re.match(r"\[.+?\]\(|no\b", cell)}
    assert not unproven
