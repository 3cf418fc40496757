"""Reading of ``.keras`` files, zip archives that may be damaged or malicious."""

import struct
import zipfile
import zlib
from pathlib import Path

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"

_ALWAYS = 1 << 20  # bytes that any member may have
_RATIO = 20  # largest compression of larger ones; Keras compresses nothing, weights hardly shrink
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others decompress without a bound
# Errors of zipfile for damaged archives, passwords and unknown methods.
_ERRORS = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError,
    OverflowError, struct.error, zlib.error,
)  # fmt: skip


def read_members(path: str | Path) -> dict[str, bytes]:
    """Read the config, metadata and weights of a ``.keras`` file, each verified by its checksum.

    Raises:
        ValueError: The archive is damaged, lacks a member or has it twice, or decompresses to far
            more than it holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: _find(archive, name) for name in (CONFIG, METADATA, WEIGHTS)}
            missing = sorted(name for name in (CONFIG, WEIGHTS) if members[name] is None)
            if missing:
                raise _RefusedError(f"is not a .keras file: it lacks {', '.join(missing)}")
            return {n: archive.read(info) for n, info in members.items() if info is not None}
    except _RefusedError as error:
        raise ValueError(f"{path} {error}") from None
    except _ERRORS as error:
        raise ValueError(
            f"{path} is damaged: its archive cannot be unpacked ({error}). Copy it again, or save "
            "the model again"
        ) from error


class _RefusedError(Exception):
    """The archive is refused; the message continues the file's name."""


def _find(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo | None:
    """Find a member, if there is one, and check what is known before it is decompressed."""
    members = [info for info in archive.infolist() if info.filename == name]
    if len(members) > 1:
        raise _RefusedError(f"has {len(members)} members {name}, of which one is expected")
    if not members:
        return None
    [info] = members
    if info.flag_bits & 1:
        raise _RefusedError(f"is encrypted: unpack {name} with its password, and pack it without")
    if info.compress_type not in _METHODS:
        raise _RefusedError(
            f"has {name} packed by method {info.compress_type}; Keras stores it as it is: save the "
            "model again"
        )
    if info.file_size > max(_ALWAYS, _RATIO * info.compress_size):
        raise _RefusedError(
            f"has {info.compress_size:,} bytes that unpack to {info.file_size:,} ({name}): weights "
            f"do not shrink more than {_RATIO} times. Save the model again with Keras, which packs "
            "nothing"
        )
    return info
