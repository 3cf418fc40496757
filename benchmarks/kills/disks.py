"""Disks that fill up while a run is written."""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.kills import children
from benchmarks.kills.checks import damaged, intact, temporaries
from benchmarks.kills.victims import OPTIONS
from lmu.training.saved import LAST, PREVIOUS

EPOCHS = 12
SIZES = range(8, 408, 8)  # kB: from less than a checkpoint to all files but the last picture


def can_mount() -> bool:
    """True if a file system of a chosen size can be mounted here."""
    return os.name == "posix" and os.geteuid() == 0 and shutil.which("mount") is not None


def fill(folder: Path, tmpdir: Path) -> Counter[str]:
    """Train on ever larger disks that fill up, then make room and continue.

    Args:
        folder: Mount point; where nothing can be mounted, the size of files is limited instead.
        tmpdir: ``TMPDIR`` of the commands.
    """
    counts: Counter[str] = Counter()
    for size in SIZES:
        folder.mkdir(parents=True, exist_ok=True)
        with _disk(folder, size) as limit:
            counts.update(_fill_one(folder, tmpdir, limit))
        shutil.rmtree(folder, ignore_errors=True)
    return counts


@contextmanager
def _disk(folder: Path, size: int) -> Iterator[int | None]:
    if not can_mount():
        yield size * 250  # of one file, a quarter of the disk
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield None
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _fill_one(folder: Path, tmpdir: Path, limit: int | None) -> Counter[str]:
    log = folder.with_suffix(".log")
    arguments = [
        "lmu",
        "train",
        "psmnist",
        *OPTIONS,
        "--epochs",
        str(EPOCHS),
        "--output",
        str(folder),
    ]
    status = children.wait(children.start(arguments, log, tmpdir, limit), 300)
    output = log.read_text()
    counts: Counter[str] = Counter({"disks": 1})
    if status == 0:
        counts["large enough"] = 1
        return counts
    counts["full"] = 1
    counts["said so, without a traceback"] += "disk full" in output.lower()
    counts["tracebacks"] += "Traceback" in output
    counts["damaged"] += damaged(folder)
    counts["temporaries that stayed"] += len(temporaries(folder))
    runs = [run for run in folder.glob("*") if any(run.glob("*.ckpt"))]
    counts["ended before the first checkpoint"] += not runs
    for run in runs:
        counts["runs lost"] += not any(intact(run / name) for name in (LAST, PREVIOUS))
        counts["went on when there was room"] += _goes_on(run, tmpdir, limit)
    return counts


def _goes_on(run: Path, tmpdir: Path, limit: int | None) -> bool:
    if limit is None:
        larger = ["mount", "-o", "remount,size=4m", str(run.parent)]
        subprocess.run(larger, check=True)
    command = ["lmu", "train", "psmnist", "--resume", str(run)]
    status = children.wait(children.start(command, run.parent.with_suffix(".log"), tmpdir), 300)
    return status == 0 and (run / "metrics.json").is_file()
