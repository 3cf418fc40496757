"""What the figures depend on."""

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch


def machine(device: torch.device | None = None) -> dict:
    """Processor, versions, commit and date; of a CUDA device also what the card is."""
    # These bring Lightning, which the processes that measure memory do not need.
    from experiments.record import processor
    from lmu.training.report import git_commit

    of_card = {"card": card(device)} if device is not None and device.type == "cuda" else {}
    return of_card | {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": git_commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def card(device: torch.device) -> dict:
    """A CUDA device, its libraries, and its driver and clocks where nvidia-smi tells them."""
    found = torch.cuda.get_device_properties(device)
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = None
    return {
        "name": found.name,
        "memory_mib": found.total_memory // 2**20,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton,
        **nvidia_smi(getattr(found, "uuid", None)),
    }


SMI = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem",
       "power.limit", "temperature.gpu", "persistence_mode")  # fmt: skip


def nvidia_smi(uuid: object) -> dict[str, str]:
    """Driver, clocks in MHz, power limit in W and temperature in C, as the driver's tool says."""
    command = ["nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader,nounits"]
    command += [] if uuid is None else ["-i", f"GPU-{uuid}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        return {"nvidia_smi": f"left out: {error}"}
    return dict(zip(SMI, found.stdout.splitlines()[0].split(", "), strict=False))


def results_folder(where: dict) -> Path:
    """Where the results of a machine are kept; those of a card in a folder of its name."""
    name = f"{where['cpu']}-{where['cores']}-cores"
    if "card" in where:
        name = where["card"]["name"]
    slug = re.sub(r"\W+", "-", name.lower()).strip("-")
    return Path(__file__).parent / "results" / slug
