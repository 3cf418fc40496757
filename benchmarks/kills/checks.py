"""What must hold in the folder of a run that has just been killed."""

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
    """Names of all files below a folder that are not whole yet, or never will be."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob(".*")
        if _TEMPORARY.fullmatch(path.name)
    }


def intact(path: Path) -> bool:
    """Whether a checkpoint can be read, to its last bit."""
    try:
        load_classifier(path)
    except CheckpointError:
        return False
    return True


def damaged(folder: Path) -> int:
    """Checkpoints anywhere below a folder that cannot be read; temporaries are none."""
    return sum(
        not intact(path) for path in folder.rglob("*.ckpt") if not _TEMPORARY.fullmatch(path.name)
    )


def rows_of(checkpoint: Path) -> list[Row]:
    """The epochs that a checkpoint has behind it."""
    return read_archive(checkpoint)[0]["callbacks"]["History"]["rows"]


@dataclass
class Seen:
    """What a run has shown so far.

    Attributes:
        epochs: Finished and written.
        losses: By epoch; one that is repeated after a kill must give the same.
        leftovers: Temporaries that the last kill left.
    """

    epochs: int = 0
    losses: dict[int, float] = field(default_factory=dict)
    leftovers: set[str] = field(default_factory=set)


def check_run(folder: Path, log: Path, seen: Seen) -> dict[str, int]:
    """Look at a killed run, and count what a kill may cost.

    Args:
        folder: Its folder.
        log: What it printed.
        seen: What was there before; updated.

    Returns:
        Counts: checkpoints that are damaged, epochs that are lost, and so on.
    """
    found = {"damaged": damaged(folder)}
    usable = [folder / name for name in (LAST, PREVIOUS) if intact(folder / name)]
    if not usable:
        found["runs lost"] = int(seen.epochs > 0)
        return found
    rows = rows_of(usable[0])
    told = [int(n) for n in re.findall(r"^epoch +(\d+)/", log.read_text(), re.MULTILINE)]
    # A line is printed before its epoch is written: the last one may be of the one under way.
    found["epochs lost"] = max(0, max([seen.epochs, *[n - 1 for n in told]]) - len(rows))
    found["epochs under way"] = int(bool(told) and told[-1] == len(rows) + 1)
    found["rows damaged"] = _wrong_rows(folder / "history.csv", rows)
    found["rows that differ when repeated"] = _note(rows, seen)
    found["best lost"] = int(
        load_classifier(usable[0]).best_epoch is not None and not intact(folder / BEST)
    )
    seen.epochs = len(rows)
    return found


def _wrong_rows(path: Path, rows: list[Row]) -> int:
    """Rows of a checkpoint that the table lacks or has otherwise; it may be one epoch ahead."""
    if not rows:
        return 0
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    same = sum(float(a["train_loss"]) == b["train_loss"] for a, b in zip(table, rows, strict=False))
    return len(rows) - same + (len(table) not in (len(rows), len(rows) + 1))


def _note(rows: list[Row], seen: Seen) -> int:
    found = {row["epoch"]: row["train_loss"] for row in rows}
    differing = sum(found.get(n, loss) != loss for n, loss in seen.losses.items())
    seen.losses |= found
    return differing
