"""Digest of the core's C sources, which its library carries; for the build without PyTorch, too."""

import hashlib
from pathlib import Path

SOURCES = Path(__file__).parent / "c"


def digest(folder: Path = SOURCES) -> str:
    """Return a number of all ``*.c`` and ``*.h`` in a folder, by their names and contents."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.c"), *folder.glob("*.h")]):
        text = path.read_bytes().replace(b"\r\n", b"\n")
        total.update(f"{path.name} {len(text)}\n".encode() + text)
    return total.hexdigest()[:16]
