"""Kills of runs of ``lmu train``, and of experiments."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.kills import children
from benchmarks.kills.checks import Seen, check_run, damaged, intact, temporaries
from experiments.psmnist.recipes import RECIPES, Recipe
from lmu.tasks.psmnist.config import PsMNISTConfig
from lmu.training.saved import LAST, PREVIOUS

TINY = {"hidden_size": 6, "memory_size": 5, "batch_size": 50, "limit": 100, "accelerator": "cpu"}
OPTIONS = [part for k, v in TINY.items() for part in ("--" + k.replace("_", "-"), str(v))]
FRESH = 40  # kills after which one command starts a new Python
LIVES = 20  # kills of one run, then another starts


def train(kills: int, folder: Path, tmpdir: Path, rng: random.Random) -> Counter[str]:
    """Kill runs of ``lmu train`` again and again, and resume each time.

    Args:
        kills: Number of kills.
        folder: Folder of the runs.
        tmpdir: ``TMPDIR`` of the commands.
        rng: Random moments of the kills.
    """
    counts: Counter[str] = Counter()
    while counts["kills"] < kills:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        seen = Seen()
        for _ in range(min(LIVES, kills - counts["kills"])):
            fresh = counts["kills"] % FRESH == FRESH - 1
            counts.update(_life(folder, tmpdir, rng, seen, fresh))
        counts["runs"] += 1
        counts["epochs"] += seen.epochs
        counts["commands that failed"] += _goes_on(folder, tmpdir)
    return counts


def _arguments(folder: Path) -> list[str]:
    runs = [path for path in folder.glob("*") if path.is_dir() and any(path.glob("c*.json"))]
    if runs:
        return ["lmu", "train", "psmnist", "--resume", str(max(runs)), "--accelerator", "cpu"]
    more = ["--epochs", "1000000", "--schedule", "constant", "--output", str(folder)]
    return ["lmu", "train", "psmnist", *OPTIONS, *more]


def _life(
    folder: Path, tmpdir: Path, rng: random.Random, seen: Seen, fresh: bool
) -> dict[str, int]:
    """Start one command and kill it, at any moment or while it trains and writes."""
    log = folder.with_suffix(".log")
    before = {path: path.stat().st_ino for path in folder.glob(f"*/{LAST}")}

    def has_written() -> bool:
        return any(before.get(p) != p.stat().st_ino for p in folder.glob(f"*/{LAST}"))

    early = rng.random() < 0.2 and not fresh
    pid = children.start(_arguments(folder), log, tmpdir, fresh=fresh)
    status = None
    if not early:
        status = children.wait(pid, 60, has_written)
    if status is None:
        status = children.wait(pid, rng.uniform(0, 0.5))
    if status is not None or not children.kill(pid):
        return {"kills": 1, "commands that failed": 1, f"ended: {log.read_text()[-300:]}": 1}
    counts = {"kills": 1, "kills of python -m lmu": int(fresh)}
    counts["kills at any moment from the start"] = int(early)
    left = temporaries(folder)
    counts["kills while a file was written"] = int(bool(left - seen.leftovers))
    if not early:  # it wrote a file, so it must have removed leftovers
        counts["temporaries that stayed"] = len(left & seen.leftovers)
    seen.leftovers = left
    for run in folder.glob("*"):
        if any(run.glob("*.ckpt")):
            counts |= check_run(run, log, seen)
    return counts


def _goes_on(folder: Path, tmpdir: Path) -> int:
    """Return 1 if a command on the killed run fails, else 0."""
    run = max(path for path in folder.glob("*") if any(path.glob("*.ckpt")))
    pid = children.start(["lmu", "eval", str(run)], folder.with_suffix(".log"), tmpdir)
    return int(children.wait(pid, 120) != 0)


def experiment(kills: int, folder: Path, tmpdir: Path, rng: random.Random) -> Counter[str]:
    """Kill experiments until all their figures are written, and compare these; repeat.

    It alternates between the experiment that trains by ``lmu train`` with a file for each run, and
    one whose file gets a row for each run.

    Args:
        kills: Number of kills.
        folder: Folder of the figures.
        tmpdir: ``TMPDIR`` of the commands.
        rng: Random moments of the kills.
    """
    RECIPES["lmufft"] = Recipe(PsMNISTConfig(epochs=40, **TINY), 2)
    commands = {
        "psmnist": ["psmnist", "lmufft", "--output", str(folder)],
        "mackey-glass": ["mackey-glass", "lmufft", "--quick", "--epochs", "1", "--seeds", "6"],
    }
    commands["mackey-glass"] += ["--output", str(folder / "figures.json")]
    counts: Counter[str] = Counter()
    undisturbed: dict[str, Any] = {}
    while counts["kills"] < kills:
        for name, command in commands.items():
            shutil.rmtree(folder, ignore_errors=True)
            arguments = ["experiments", *command]
            if name not in undisturbed:
                children.wait(children.start(arguments, folder.with_suffix(".log"), tmpdir), 300)
                undisturbed[name] = _figures(folder)
                shutil.rmtree(folder)
            limit = min(kills - counts["kills"], 50)
            counts.update(_until_done(arguments, folder, tmpdir, rng, limit))
            counts["experiments"] += 1
            counts["figures that differ"] += _figures(folder) != undisturbed[name]
            counts["temporaries that stayed"] += len(temporaries(folder))
    return counts


def _until_done(
    arguments: list[str], folder: Path, tmpdir: Path, rng: random.Random, limit: int
) -> Counter[str]:
    counts: Counter[str] = Counter()
    log, most = folder.with_suffix(".log"), 0
    while True:
        pid = children.start(arguments, log, tmpdir)
        moment = rng.uniform(0, 1.2) if counts["kills"] < limit else 300
        status = children.wait(pid, moment)
        if status is not None:
            counts["commands that failed"] += status != 0
            if status:
                counts[f"ended: {log.read_text()[-300:]}"] += 1
            return counts
        children.kill(pid)
        counts["kills"] += 1
        counts["kills while a file was written"] += bool(temporaries(folder))
        counts["damaged"] += damaged(folder)
        for run in folder.glob("runs/*/*"):
            begun = (run / "history.csv").is_file()
            counts["runs lost"] += begun and not any(intact(run / n) for n in (LAST, PREVIOUS))
        rows = len(_figures(folder))
        counts["rows lost"] += max(0, most - rows)
        most = max(most, rows)


def _figures(folder: Path) -> list[Any]:
    """Read all rows in the files of an experiment, without entries that differ between runs.

    Raises:
        ValueError: A file is damaged.
    """
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    files = [json.loads(path.read_text()) for path in paths]
    rows = [row for file in files for row in file.get("rows", [file])]
    times = ("seconds", "cpu_seconds", "seconds_per_epoch", "git_commit", "machine")
    return [{k: _without(v, times) for k, v in row.items() if k not in times} for row in rows]


def _without(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_without(item, names) for item in value]
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if k not in names}
    return value
