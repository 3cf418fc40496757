"""Kill training and experiments, fill disks, count losses: ``python -m benchmarks.kills``.

Most commands are forked from a process that has imported everything, a few start as users start
them. They get a SIGKILL at a random moment, mostly while an epoch is computed or written, which at
these sizes takes some milliseconds. After each kill only the current epoch may be lost, and the
next command continues. Linux and macOS only.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.kills import children, disks, victims
from experiments.record import read_rows, write_record

KINDS = ("train-one", "experiment-one", "train-two", "experiment-two", "fill")
BAD = (
    "damaged",
    "epochs lost",
    "runs lost",
    "rows damaged",
    "rows lost",
    "rows that differ when repeated",
    "best lost",
    "temporaries that stayed",
    "figures that differ",
    "commands that failed",
    "tracebacks",
)


def main() -> None:
    """Read the options, kill, fill, count, and report losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="of each kind (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="for the runs (default: a temporary one)")
    parser.add_argument(
        "--other", type=Path, default=Path("/dev/shm"), help="a folder on another file system"
    )
    parser.add_argument(
        "--only", nargs="+", choices=KINDS, default=KINDS, help="of the kinds (default: all)"
    )
    parser.add_argument(
        "--output", type=Path, help="write the counts as JSON; those of other kinds stay"
    )
    options = parser.parse_args()
    children.prepare()
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as here,
        tempfile.TemporaryDirectory(dir=options.other) as there,
    ):
        rows = _rows(options, Path(here), Path(there))
    lost = sum(row.get(name, 0) for row in rows for name in BAD)
    print("nothing was lost but epochs under way" if not lost else f"{lost} faults")
    sys.exit(bool(lost))


def _rows(options: argparse.Namespace, here: Path, there: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def add(what: str, where: str, counts: Counter[str]) -> None:
        rows.append(_row(what, where, counts))
        if options.output is not None:
            _write(options, rows)

    places = {"one": ("one file system", here)}
    if here.stat().st_dev != there.stat().st_dev:
        places["two"] = ("two file systems, TMPDIR on the other", there)
    for kind, (place, tmpdir) in places.items():
        for work in (victims.train, victims.experiment):
            if f"{work.__name__}-{kind}" in options.only:
                rng = random.Random(f"{options.seed} {place} {work.__name__}")
                counts = work(options.kills, here / work.__name__, tmpdir, rng)
                add(work.__name__, place, counts)
    if "fill" in options.only:
        what = "tmpfs of 8 to 400 kB" if disks.can_mount() else "files limited to 2 to 100 kB"
        add("fill", what, disks.fill(here / "disk", here))
    return rows


def _write(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write the rows, keeping those of other kinds in the file."""

    def key(row: dict[str, Any]) -> tuple[str, str]:
        return row["what"], row["where"]

    new = {key(row): row for row in rows}
    stored = read_rows(options.output, "kills", {"what": str, "where": str})
    rows = list({**{key(row): row for row in stored}, **new}.values())
    settings = {"kills": options.kills, "seed": options.seed}
    write_record(options.output, "kills", settings, rows=rows)


def _row(what: str, where: str, counts: Counter[str]) -> dict[str, Any]:
    print(f"{what}, {where}:")
    for name, count in counts.items():
        if count or name in BAD:
            print(f"  {name}: {count}", flush=True)
    return {"what": what, "where": where, **counts}


if __name__ == "__main__":
    main()
