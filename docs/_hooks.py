"""Extend the Markdown of the site's pages: equations, and links to files outside docs.

Pages link to tests, notebooks and results by their places in the repository. In the site each such
file becomes a page or a picture of its own, so that the links lead somewhere there too.
"""

import ast
import html
import json
import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
INSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]*\)")
OUTSIDE = re.compile(r"(!?)\[([^\]]*)\]\(\.\./([^()\s#]+)(?:#([^()\s]+))?\)")
EQUATION = re.compile(r'<(div|span) class="arithmatex">\\[\[(](.+?)\\[\])]</\1>', re.DOTALL)
ALIGNED = re.compile(r"(\\(?:begin|end)\{)aligned(\})")
TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
CELL = re.compile(r"<(t[hd])\b([^>]*)>(.*?)</\1>", re.DOTALL)
SHORT, LONG = 16, 36  # characters of a column's longest cell
FOLDER = "source"  # of the site, for what is not in docs


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs that pages link to."""
    pages = [file for file in files.documentation_pages() if "/" not in file.src_uri]
    found = {m[3] for file in pages for m in OUTSIDE.finditer(file.content_string)}
    for path in sorted(name for name in found if (ROOT / name).is_file()):
        files.append(_added(path, config))
    return files


def _added(path: str, config: MkDocsConfig) -> File:
    source = ROOT / path
    if source.suffix in {".png", ".svg"}:
        return File.generated(config, f"{FOLDER}/{path}", abs_src_path=str(source))
    show = {".py": _python, ".ipynb": _notebook}.get(source.suffix, _text)
    return File.generated(config, f"{FOLDER}/{path}.md", content=show(path, source.read_text()))


UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"


def _head(path: str) -> str:
    return f"{UNSEARCHED}# {path}\n\n"


def _fence(text: str, language: str) -> str:
    return f"``````{language}\n{text.strip(chr(10))}\n``````\n\n"


def _text(path: str, text: str) -> str:
    return _head(path) + _fence(text, "text")


def _python(path: str, text: str) -> str:
    """The source, with a heading for each function, by which it is linked."""
    lines = text.splitlines()
    page, start = _head(path), 0
    for node in ast.parse(text).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
        page += _code(lines[start:first])
        names = [f.name for f in ast.walk(node) if isinstance(f, ast.FunctionDef)]
        if isinstance(node, ast.FunctionDef):
            names = [node.name]
        page += "".join(f'<a id="{name}"></a>\n' for name in names if name != node.name)
        page += f"## {node.name} {{ #{node.name} }}\n\n"
        page += _code(lines[first : node.end_lineno])
        start = node.end_lineno or first
    return page + _code(lines[start:])


def _code(lines: list[str]) -> str:
    text = "\n".join(lines)
    return _fence(text, "python") if text.strip() else ""


def _notebook(path: str, text: str) -> str:
    """The cells and what they gave; links within the repository are left out."""
    page = UNSEARCHED
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            page += INSIDE.sub(r"\1", source) + "\n\n"
        else:
            page += _fence(source, "python")
        for output in cell.get("outputs", []):
            page += _output(output)
    return page


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "text/html" in data and "<script" not in (given := "".join(data["text/html"])):
        return f'<div class="output">{given}</div>\n\n'
    if "image/png" in data:
        image = "".join(data["image/png"]).replace("\n", "")
        return (
            f'<img class="output" alt="what the cell drew" src="data:image/png;base64,{image}">\n\n'
        )
    shown = "".join(output.get("text", data.get("text/plain", "")))
    return _fence(shown, "text") if shown.strip() else ""


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of docs to what stands for their target; folders are named without a link."""
    if "/" in page.file.src_uri:
        return markdown
    return "".join(p if FENCED.match(p) else OUTSIDE.sub(_lead, p) for p in FENCED.split(markdown))


def _lead(found: re.Match[str]) -> str:
    picture, label, path, fragment = found.groups()
    if picture:
        return f"![{label}]({FOLDER}/{path})"
    if not (ROOT / path).is_file():
        return label
    return f"[{label}]({FOLDER}/{path}.md{f'#{fragment}' if fragment else ''})"


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn equations into MathML, which browsers draw without a script, and make room in tables."""
    return TABLE.sub(lambda found: _with_widths(found[0]), EQUATION.sub(_drawn, content))


def _drawn(found: re.Match[str]) -> str:
    display = "block" if found[1] == "div" else "inline"
    # Notebooks' readers know aligned only, the converter align* only.
    latex = ALIGNED.sub(r"\1align*\2", html.unescape(found[2].strip()))
    drawn = convert(latex, display=display)
    return f'<div class="equation">{drawn}</div>' if display == "block" else drawn


def _with_widths(table: str) -> str:
    """Say of each column whether its cells are short or long, for the style of narrow screens."""
    rows = [[_length(m[3]) for m in CELL.finditer(row)] for row in table.split("</tr>")]
    columns = list(map(max, zip_longest(*filter(None, rows), fillvalue=0)))

    def classified(row: str) -> str:
        widths = iter(columns)

        def cell(found: re.Match[str]) -> str:
            width = next(widths)
            kind = "short" if width <= SHORT else "long" if width > LONG else ""
            if found[1] == "th" or not kind:
                return found[0]
            return f'<td{found[2]} class="{kind}">{found[3]}</td>'

        return CELL.sub(cell, row)

    return "</tr>".join(classified(row) for row in table.split("</tr>"))


def _length(cell: str) -> int:
    return len(html.unescape(re.sub(r"<[^>]*>", "", cell)).strip())
