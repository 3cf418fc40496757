"""Checks of the folder of a run that has just been killed."""

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmu._archive import read_archive
from lmu._files import _TEMPORARY
from lmu.tasks.psmnist.recipe import load_classifier
from lmu.training.saved import BEST, LAST, PREVIOUS, CheckpointError

Row = dict[str, Any]


def temporaries(folder: Path) -> set[str]:
    """Return the names of all temporaries below a folder."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob(".*")
        if _TEMPORARY.fullmatch(path.name)
    }


def intact(path: Path) -> bool:
    """True if a checkpoint is undamaged to the last bit."""
    try:
        load_classifier(path)
    except CheckpointError:
        return False
    return True


def damaged(folder: Path) -> int:
    """Count damaged checkpoints below a folder, without temporaries."""
    return sum(
        not intact(path) for path in folder.rglob("*.ckpt") if not _TEMPORARY.fullmatch(path.name)
    )


def rows_of(checkpoint: Path) -> list[Row]:
    """Return the rows of the epochs in a checkpoint's history."""
    return read_archive(checkpoint)[0]["callbacks"]["History"]["rows"]


@dataclass
class Seen:
    """State of a run at the last check.

    Attributes:
        epochs: Epochs finished and written.
        losses: Loss of each epoch; an epoch repeated after a kill must give the same.
        leftovers: Temporaries that the last kill left.
    """

    epochs: int = 0
    losses: dict[int, float] = field(default_factory=dict)
    leftovers: set[str] = field(default_factory=set)


def check_run(folder: Path, log: Path, seen: Seen) -> dict[str, int]:
    """Check a killed run, and count losses.

    Args:
        folder: The run's folder.
        log: Its output.
        seen: State at the last check; updated.

    Returns:
        Counts of damaged checkpoints, lost epochs, and so on.
    """
    counts = {"damaged": damaged(folder)}
    usable = [folder / name for name in (LAST, PREVIOUS) if intact(folder / name)]
    if not usable:
        counts["runs lost"] = int(seen.epochs > 0)
        return counts
    rows = rows_of(usable[0])
    printed = [int(n) for n in re.findall(r"^epoch +(\d+)/", log.read_text(), re.MULTILINE)]
    # A line is printed before its epoch is written: the last one may not be written yet.
    counts["epochs lost"] = max(0, max([seen.epochs, *[n - 1 for n in printed]]) - len(rows))
    counts["epochs under way"] = int(bool(printed) and printed[-1] == len(rows) + 1)
    counts["rows damaged"] = _wrong_rows(folder / "history.csv", rows)
    counts["rows that differ when repeated"] = _note(rows, seen)
    counts["best lost"] = int(
        load_classifier(usable[0]).best_epoch is not None and not intact(folder / BEST)
    )
    seen.epochs = len(rows)
    return counts


def _wrong_rows(path: Path, rows: list[Row]) -> int:
    """Count a checkpoint's rows that differ in the table, which may be one epoch ahead."""
    if not rows:
        return 0
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    same = sum(float(a["train_loss"]) == b["train_loss"] for a, b in zip(table, rows, strict=False))
    return len(rows) - same + (len(table) not in (len(rows), len(rows) + 1))


def _note(rows: list[Row], seen: Seen) -> int:
    losses = {row["epoch"]: row["train_loss"] for row in rows}
    differing = sum(losses.get(n, loss) != loss for n, loss in seen.losses.items())
    seen.losses |= losses
    return differing
