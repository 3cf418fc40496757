"""Builds the compiled core: ``python hatch_build.py`` in place, or as a hook of hatchling."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent / "src/lmu/ops/native"
FLAGS = "-O3 -std=gnu11 -ffp-contract=fast -fno-math-errno -fPIC -fvisibility=hidden".split()
WARNINGS = "-Wall -Wextra -Wno-unused-function".split()
VARIANTS = {
    "avx512": (64, "-mavx512f -mavx512dq -mavx512vl -mavx512bw -mfma -mprefer-vector-width=512"),
    "avx2": (32, "-mavx2 -mfma"),
    "baseline": (16, ""),
}
PRECISIONS = {"f32": ["-DREAL=float"], "f64": ["-DREAL=double", "-DREAL_IS_DOUBLE"]}


def build() -> None:
    """Compile every kernel for each variant and precision, and link them."""
    compiler = shutil.which("cc") or "gcc"
    with tempfile.TemporaryDirectory() as folder:
        commands, objects = [], []
        for source in sorted((FOLDER / "c").glob("*.c")):
            if source.name == "parallel.c":
                objects.append(Path(folder) / "parallel.o")
                commands.append([*FLAGS, *WARNINGS, "-c", str(source), "-o", str(objects[-1])])
                continue
            for variant, (size, instructions) in VARIANTS.items():
                for precision, real in PRECISIONS.items():
                    suffix = f"{precision}_{variant}"
                    objects.append(Path(folder) / f"{source.stem}_{suffix}.o")
                    kind = [f"-DSUFFIX={suffix}", f"-DVECTOR_BYTES={size}", *instructions.split()]
                    commands.append(
                        [*FLAGS, *WARNINGS, *real, *kind, "-c", str(source), "-o", str(objects[-1])]
                    )
        running = [subprocess.Popen([compiler, *command]) for command in commands]
        if any(process.wait() for process in running):
            sys.exit("the compiler failed")
        target = FOLDER / "_core.so"
        subprocess.run(
            [compiler, "-shared", *map(str, objects), "-o", str(target) + ".new", "-lm"], check=True
        )
        Path(str(target) + ".new").replace(target)


if __name__ == "__main__":
    build()
