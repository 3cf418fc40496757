"""Wrong commands: each must end with a status and a message, and no traceback."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from tests.fuzz.calls import SECONDS, HangError, limit

# What may stand where a value is wanted; no data is there, so that nothing is trained.
VALUES = ["", " ", "0", "-1", "-0", "1e400", "nan", "inf", "-inf", str(2**62), str(10**400), "1.5",
          "yes", "None", "[1, 2]", "{}", "\u00e9\u4e2d", "--", "a" * 5000, "/", ".",
          "no/such/file", "no/such/file.ckpt", "0x10", "1_000", "true", "%s%n", "../..",
          "[bold]x[/nothing]"]  # fmt: skip
COMMANDS = {
    ("train", "psmnist"): [
        "--model", "--hidden-size", "--memory-size", "--layers", "--theta", "--dropout",
        "--input-dropout", "--input-noise", "--hidden-noise", "--epochs", "--max-seconds",
        "--batch-size", "--lr", "--gradient-clip", "--weight-decay", "--label-smoothing",
        "--schedule", "--patience", "--seed", "--limit", "--permutation", "--resume",
        "--accelerator", "--devices", "--num-nodes", "--strategy", "--precision",
    ],
    ("eval",): ["", "--data", "--accelerator"],
    ("predict",): ["", "--count", "--seed", "--output", "--data"],
    ("export",): ["", "--format", "--output"],
    ("explain",): ["", "", "--hidden-size", "--batch-size", "--channels", "--device"],
    ("experiments", "psmnist"): ["", "--seeds", "--output"],
    ("experiments", "series"): ["--seeds", "--output"],
    ("experiments", "mackey-glass"): ["", "--seeds", "--epochs", "--output"],
    ("experiments", "capacity"): ["--seed", "--lstm-seconds", "--output"],
    ("experiments", "speed-up"): ["--device", "--rounds", "--output"],
}  # fmt: skip
# Appended to commands that would else work for long, whose data are then not found.
STOPPED = {("train", "psmnist"): ["--data", "no/such/folder"],
           ("experiments", "psmnist"): ["--quick", "--data", "no/such/folder"],
           ("experiments", "mackey-glass"): ["--output=/dev/null/x.json"],
           ("experiments", "series"): ["--output=/dev/null/x.json"],
           ("experiments", "capacity"): ["--output=/dev/null/x.json"],
           ("experiments", "speed-up"): ["--output=/dev/null/x.json"]}  # fmt: skip


def wrong_command(seed: int, number: int) -> list[str]:
    """Words of a command with one or two wrong values."""
    rng = Random(f"{seed} command {number}")
    names = list(COMMANDS)
    command = names[number % len(names)]
    words = list(command)
    for option in rng.sample(COMMANDS[command], min(2, len(COMMANDS[command]))):
        value = rng.choice(VALUES)
        words += [f"{option}={value}"] if option else [value]
    return words + STOPPED.get(command, [])


@contextmanager
def _elsewhere() -> Iterator[None]:
    """In a folder where nothing is, and where what is written harms nothing."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def check_command(seed: int, number: int) -> tuple[str, str, str]:
    """The command, what came of it (refused, accepted or WRONG), and what it said."""
    from typer.testing import CliRunner

    from experiments.__main__ import build_app
    from lmu.cli import app

    words = wrong_command(seed, number)
    text = " ".join(word if len(word) < 40 else f"{word[:30]}..." for word in words)
    try:
        with _elsewhere(), limit(SECONDS):
            ours = words[0] != "experiments"
            result = CliRunner().invoke(app if ours else build_app(), words if ours else words[1:])
    except HangError as error:
        return text, "WRONG", str(error)
    said = result.output.strip()
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return text, "WRONG", f"{type(result.exception).__name__}: {result.exception}"
    if result.exit_code == 0:
        return text, "accepted", said
    fine = result.exit_code in {1, 2} and said and "Traceback" not in said
    return text, "refused" if fine else "WRONG", f"status {result.exit_code}: {said[-200:]}"
