"""Files of GitHub and pre-commit: they parse, and name versions, targets and folders that exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TARGETS = set(
    re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*_*.yml"))

workflows = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def commands(path: Path) -> str:
    return "\n".join(step["run"] for step in steps(path) if "run" in step)


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_there_are_workflows_and_forms():
    assert [path.stem for path in WORKFLOWS] == ["docs", "tests", "wheels"]
    assert [path.stem for path in FORMS] == ["bug_report", "feature_request"]


@workflows
def test_a_workflow_may_do_no_more_than_read(path):
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    for name, job in workflow["jobs"].items():
        assert "timeout-minutes" in job, name
        if "permissions" in job:  # what writes waits until someone sets a variable
            assert "vars." in job["if"], name


@workflows
def test_actions_are_named_by_their_major_version(path):
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", action), action


@workflows
def test_commands_of_workflows_exist(path, project):
    text = commands(path)
    assert set(re.findall(r"\bmake ([\w-]+)", text)) <= TARGETS
    for folder in re.findall(r"\btests/\w+", text):
        assert (ROOT / folder).is_dir(), folder
    for extra in re.findall(r'"\.\[(\w+)\]"', text):
        assert extra in project["optional-dependencies"]


def test_versions_are_those_that_the_package_admits(project):
    matrix = load(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["versions"]["strategy"]
    oldest, newest = matrix["matrix"]["torch"]
    torch = next(need for need in project["dependencies"] if need.startswith("torch"))
    assert oldest.replace("==", ">=").removesuffix(".*") == torch
    assert newest == "torch"
    assert f">={matrix['matrix']['python'][0]}" == project["requires-python"]
    systems = {row["os"].split("-")[0] for row in matrix["matrix"]["include"]}
    assert systems == {"macos", "windows"}


def test_commits_are_checked_by_targets_of_the_makefile():
    hooks = [h for r in load(ROOT / ".pre-commit-config.yaml")["repos"] for h in r["hooks"]]
    entries = [hook["entry"].split() for hook in hooks if "entry" in hook]
    assert [target for _, target in entries] == ["lint", "types"]
    assert {"lint", "types", "test", "test-all", "docs"} <= TARGETS


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_ask_something(path):
    form = load(path)
    assert form["name"]
    assert form["description"]
    fields = [field["id"] for field in form["body"]]
    assert len(set(fields)) == len(fields) > 2
