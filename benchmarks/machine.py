"""Description of the machine that results depend on."""

import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from lmu._machine import git_commit, hardware


def machine(device: torch.device | None = None) -> dict:
    """Describe processor, versions, commit and date, and the GPU of a CUDA device."""
    on_gpu = {"gpu": gpu(device)} if device is not None and device.type == "cuda" else {}
    software = {"python": platform.python_version(), "torch": torch.__version__}
    return on_gpu | hardware() | software | {"commit": git_commit()}


def gpu(device: torch.device) -> dict:
    """Describe a CUDA device, its libraries, and by nvidia-smi its driver and clocks."""
    properties = torch.cuda.get_device_properties(device)
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = None
    return {
        "name": properties.name,
        "memory_mib": properties.total_memory // 2**20,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton,
        **nvidia_smi(getattr(properties, "uuid", None)),
    }


SMI = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem",
       "power.limit", "temperature.gpu", "persistence_mode")  # fmt: skip


def nvidia_smi(uuid: object) -> dict[str, str]:
    """Read driver, clocks in MHz, power limit in W and temperature in C from nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader,nounits"]
    command += [] if uuid is None else ["-i", f"GPU-{uuid}"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        return {"nvidia_smi": f"left out: {error}"}
    return dict(zip(SMI, result.stdout.splitlines()[0].split(", "), strict=False))


def results_folder(where: dict) -> Path:
    """Return the folder of a machine's results, named by its GPU or else by its processor."""
    name = f"{where['cpu']}-{where['cores']}-cores"
    if "gpu" in where:
        name = where["gpu"]["name"]
    slug = re.sub(r"\W+", "-", name.lower()).strip("-")
    return Path(__file__).parent / "results" / slug
