"""The notebooks in examples: they run, and what lies in the repository is what they gave."""

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from examples.execute import METADATA, strip
from tests.limits import HANG

FOLDER = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 1_500_000  # bytes
ABSOLUTE = re.compile(r"(?<![\w.~])/(?:home|root|tmp|usr|opt|var|Users)\b|[A-Z]:\\")

# Values of parameters with which a notebook takes seconds.
SHORT: dict[str, dict[str, Any]] = {
    "lmu_fft_psmnist": {"epochs": 2, "digits": 300, "test_digits": 100, "streams": 5},
    "lmu_psmnist": {
        "batches": 2, "batch_size": 4, "val_digits": 8, "test_digits": 16, "every": 1,
    },
    "mackey_glass": {
        "series": 2, "val_series": 1, "test_series": 2, "length": 300, "batches": 2,
        "batch_size": 2, "segment": 100, "warm_up": 150, "free": 50, "long_free": 450,
    },
    "streaming": {"batches": 2, "streams": 3, "frames": 2},
}  # fmt: skip


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(notebook: Any) -> Any:
    (cell,) = (c for c in code(notebook) if "parameters" in c.metadata.get("tags", []))
    return cell


def shorten(source: str, values: dict[str, Any]) -> str:
    """Replace the values of parameters, each of which must be there."""
    for name, value in values.items():
        source, found = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value!r}", source)
        if found != 1:
            raise ValueError(f"the parameters cell sets {name} {found} times")
    return source


def shows(source: str) -> bool:
    """Whether a cell prints, draws, or ends with a value."""
    body = ast.parse(source).body
    outside = [s for s in body if not isinstance(s, ast.FunctionDef | ast.ClassDef)]
    called = {
        ast.unparse(node.func)
        for statement in outside
        for node in ast.walk(statement)
        if isinstance(node, ast.Call)
    }
    return bool(called & {"print", "plt.show"}) or (bool(body) and isinstance(body[-1], ast.Expr))


def texts(cell: Any) -> list[str]:
    """What is to be read in a cell: its source, and its outputs but for pictures."""
    found = [cell.source]
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        found += [output.get("text", "")]
        found += [re.sub(r"base64,[\w+/=]+", "", text) for kind, text in data.items()
                  if not kind.startswith("image/")]  # fmt: skip
    return found


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


def test_runs(path, tmp_path):
    notebook = read(path)
    cell = parameters(notebook)
    cell.source = shorten(cell.source, SHORT[path.stem])
    NotebookClient(
        notebook,
        timeout=HANG,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": tmp_path}},
    ).execute()
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert not [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert all(cell.outputs for cell in code(notebook) if shows(cell.source))
    assert not list(tmp_path.iterdir())  # nothing is left where it ran


def test_all_of_it_was_run_in_order(path):
    cells = code(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells if shows(cell.source))


def test_outputs_are_clean(path):
    outputs = [output for cell in code(read(path)) for output in cell.outputs]
    assert {o.output_type for o in outputs} <= {"stream", "display_data", "execute_result"}
    assert {o.name for o in outputs if o.output_type == "stream"} == {"stdout"}
    assert any("image/png" in o.get("data", {}) for o in outputs)


def test_file_is_small_and_belongs_to_no_machine(path):
    assert path.stat().st_size < LARGEST
    notebook, stripped = read(path), read(path)
    strip(stripped)
    assert notebook == stripped
    assert notebook.metadata == METADATA
    found = [text for cell in notebook.cells for text in texts(cell)]
    assert not [text for text in found if ABSOLUTE.search(text) or str(FOLDER.parent) in text]


def test_every_parameter_is_a_plain_value(path):
    body = ast.parse(parameters(read(path)).source).body
    assert all(isinstance(s, ast.Assign) and ast.literal_eval(s.value) is not None for s in body)


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == set(SHORT)


@pytest.mark.parametrize("name", ["epoch", "seed"])
def test_a_parameter_that_is_not_there_is_noticed(name):
    with pytest.raises(ValueError, match=name):
        shorten("epochs = 2\nseed = 0\nseed = 1\n", {name: 1})


def test_an_absolute_path_is_noticed():
    assert all(ABSOLUTE.search(text) for text in ("in /tmp/a", "'/home/a'", "C:\\b"))
    assert not any(ABSOLUTE.search(text) for text in ("https://a.b/work", "runs/tmp/x", "1/2"))
