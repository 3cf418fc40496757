"""The site that MkDocs builds from docs: built strictly, complete, and nothing in it is fetched."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lmu
import lmu.theory

ROOT = Path(__file__).parents[1]
FETCHED = re.compile(
    r'(?:<(?:script|img|iframe)\b[^>]* src=|<link\b[^>]* href=|@import |url\()"?http'
)

# LaTeX that was not rendered, or rendered as text. Code may show it.
CODE = re.compile(r"<(pre|code|script|style)\b.*?</\1>", re.DOTALL)
RAW = re.compile(
    r"\\begin|\\end\{|&(?:amp;)?=|\\\\|\\[a-zA-Z]{2,}|\$\$|linebreak=|<m[io]>(?:\\|&(?![#\w]+;))"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir"]
    built = subprocess.run(
        [*command, str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def page(site: Path, name: str) -> str:
    return (site / name / "index.html").read_text()


def test_every_page_is_there(site):
    names = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert len(names) > 10
    menu = page(site, "")
    for name in names - {"index"}:
        assert f'href="{name}/"' in menu, name
        assert "<h1" in page(site, name)
    assert not [path for path in site.rglob("*.py") if path.is_file()]


def test_every_public_name_is_in_the_reference(site):
    reference = "".join(page(site, f"api-{part}") for part in ("layers", "functions", "more"))
    names = {f"lmu.{name}" for name in lmu.__all__ if not name.startswith("_")}
    names |= {"lmu.LMU.forward", "lmu.LMUFFT.step", "lmu.LMU.decode", "lmu.Stream.__call__"}
    memory = ("forward", "final", "readout", "step", "decode", "explain", "theta")
    names |= {f"lmu.LegendreMemory.{name}" for name in memory}
    names |= {"lmu.ops.memory.dispatch.memory", "lmu.ops.choose_memory", "lmu.ops.LMUWeights"}
    names |= {"lmu.models.SequenceClassifier", "lmu.interop.onnx.export_onnx"}
    functions = {name: getattr(lmu.theory, name) for name in lmu.theory.__all__ if name.islower()}
    names |= {f"{function.__module__}.{name}" for name, function in functions.items()}
    missing = {name for name in names if f'id="{name}"' not in reference}
    assert not missing


def test_docstrings_are_drawn(site):
    for part in ("layers", "functions", "more"):
        text = page(site, f"api-{part}")
        assert not re.search(r"\.\. math|:(?:class|func|data|meth|mod|math):|\\begin", text)
    assert page(site, "api-layers").count('<math xmlns="http://www.w3.org/1998/Math/MathML"') > 4
    assert "arithmatex" not in page(site, "concepts")


def test_no_page_has_raw_latex(site):
    pages = [path for path in site.rglob("*.html") if "<h1" in path.read_text()]
    assert len(pages) > 20
    for path in pages:
        found = RAW.search(CODE.sub("", path.read_text()))
        assert found is None, (path, found)
    for raw in (r"\begin{aligned}", "a &amp;= b", r"a \\\\ b", "<mi>&</mi>", r"<mi>\foo</mi>"):
        assert RAW.search(raw), raw
    for name in ("lmu_fft_psmnist", "lmu_psmnist"):
        assert "<mtable" in page(site, f"source/examples/{name}.ipynb")


def test_tables_have_room_on_narrow_screens(site):
    text = page(site, "reproductions")
    assert '<td class="short">deep-1024</td>' in text
    assert '<td class="long"><code>--model deep --hidden-size 1024</code>' in text
    style = (site / "style.css").read_text()
    assert "td.long" in style
    assert '[data-md-color-scheme="slate"] .md-typeset img' in style  # no white slabs


def test_links_to_files_outside_docs_lead_to_them(site):
    assert 'href="../source/tests/layers/test_equations.py/#test_lmu"' in page(site, "features")
    assert 'id="test_lmu"' in page(site, "source/tests/layers/test_equations.py")
    assert "Apache License" in page(site, "source/LICENSE")
    assert 'src="../source/results/capacity.png"' in page(site, "reproductions")
    assert (site / "source" / "results" / "capacity.png").is_file()
    notebook = page(site, "source/examples/streaming.ipynb")
    assert "data:image/png;base64," in notebook
    assert 'class="highlight"' in notebook


def test_nothing_is_fetched(site):
    files = [path for kind in ("html", "css") for path in site.rglob(f"*.{kind}")]
    assert len(files) > 20
    fetching = {path.name for path in files if FETCHED.search(path.read_text())}
    assert not fetching
    assert FETCHED.search('<link rel="stylesheet" href="https://fonts.example/x.css">')
