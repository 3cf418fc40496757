"""Conformance tests of the methods and the layers on the GPU."""

import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.session import Session

ROOT = Path(__file__).parents[2]
TESTS = ("tests/ops", "tests/layers")
LONGEST = 900  # seconds of one folder of tests
OUTCOMES = ("passed", "failed", "errors", "skipped")


def measure(s: Session) -> None:
    """Run ``pytest --device``; failed tests are faults."""
    for folder in TESTS:
        if not s.late(folder):
            run(s, folder)


def run(s: Session, folder: str) -> None:
    """Run the tests of a folder and count their outcomes."""
    device = str(s.device) if s.device.index else s.device.type
    command = [sys.executable, "-m", "pytest", "--device", device, "-m", "not slow"]
    command += ["-r", "fE", "--tb", "line", "--color", "no", folder]
    start = time.monotonic()
    try:
        ended = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        s.left_out[folder] = f"took more than {LONGEST} s"
        return
    spent = time.monotonic() - start
    summary = ended.stdout.rstrip().rpartition("\n")[2]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", summary)}
    counts["errors"] = counts.get("errors", 0) + counts.get("error", 0)
    row = {"tests": folder, "seconds": spent, **{key: counts.get(key, 0) for key in OUTCOMES}}
    s.rows.append(row)
    s.say(f"  {folder}: {summary}")
    failed = re.findall(r"^(?:FAILED|ERROR) (.+)$", ended.stdout, re.MULTILINE)
    s.faults += failed
    if ended.returncode and not failed:
        lines = (ended.stderr or ended.stdout).strip().splitlines() or ["no output"]
        s.faults.append(f"{folder}: pytest ended with {ended.returncode}: {lines[-1]}")
