"""Files of MNIST: finding, checking and reading them."""

import gzip
import hashlib
import io
import sys
import zlib
from os.path import isfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lmu._arguments import checked, instance, one_of, optional, shown
from lmu._arguments import path as path_rule
from lmu._extras import require
from lmu._files import write_whole

# md5 of the uncompressed files.
FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
CHECKOUT = Path(__file__).resolve().parents[3] / "data" / "mnist"


class DataError(ValueError):
    """A data file is missing, damaged or cannot be downloaded; the message names the cure."""


def default_cache() -> Path:
    """Return the user's cache folder for MNIST, in the operating system's place for caches."""
    require("pooch", extra="train")
    import pooch

    return Path(pooch.os_cache("torch-lmu")) / "mnist"


@checked(
    data=optional(path_rule),
    checkout=optional(path_rule),
    cache=optional(path_rule),
    mirrors=instance(tuple, list),
)
def locate(
    data: str | Path | None = None,
    *,
    checkout: Path | None = None,
    cache: Path | None = None,
    mirrors: tuple[str, ...] = MIRRORS,
) -> dict[str, Path]:
    """Find the four files: in ``data`` or else in a checkout, the cache, or on the internet.

    A folder may hold each file raw or gzipped (``.gz``). If ``data`` is set no other folder is
    searched. Otherwise the first of these that holds all files is taken: ``data/mnist`` in the
    current folder or one above it, that of the checkout which this code runs from, and the cache.
    Files that the cache lacks are downloaded into it.

    Args:
        data: A folder that must hold all four files.
        checkout: The only folder ``data/mnist`` to search; those above if None.
        cache: Where downloads are kept; :func:`default_cache` if None.
        mirrors: Addresses to try in turn; each ends in a slash.

    Returns:
        The path of each file, by its name in :data:`FILES`.

    Raises:
        DataError: A file is missing in a folder that must hold it, or no mirror served it.
    """
    if data is not None:
        return _complete(Path(data).expanduser(), "name a folder that holds it with --data")
    folders = [*_above(Path.cwd()), CHECKOUT] if checkout is None else [Path(checkout)]
    cache = None if cache is None else Path(cache)
    for folder in folders:
        if len(present := _present(folder)) == len(FILES):
            return present
    if _present(folders[-1]):
        return _complete(folders[-1], "restore it from version control")
    try:
        cache = default_cache() if cache is None else cache
        cached = _present(cache)
        return cached | {n: _download(n, cache, mirrors) for n in FILES if n not in cached}
    except (DataError, ImportError) as error:
        raise DataError(_not_found(folders, error)) from error


@checked(name=one_of(list(FILES)), path=path_rule)
def read_bytes(name: str, path: Path) -> bytes:
    """Read one of the four files uncompressed, and verify its checksum.

    Args:
        name: A key of :data:`FILES`.
        path: The file, gzipped if its suffix is ``.gz``.

    Raises:
        DataError: The file cannot be read or is not the original.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != FILES[name]:
        raise _damaged(path, f"its content has the md5 {md5}, expected {FILES[name]}")
    return content


@checked(paths=instance(dict))
def verify(paths: dict[str, Path]) -> None:
    """Verify all four files, so that damage is found before hours of training.

    Args:
        paths: The files, as :func:`locate` returns them.

    Raises:
        DataError: A file cannot be read or is not the original.
    """
    for name, path in paths.items():
        read_bytes(name, path)


@checked(paths=instance(dict), part=one_of(("train", "t10k")))
def load(paths: dict[str, Path], part: Literal["train", "t10k"]) -> tuple[Tensor, Tensor]:
    """Load images and labels of the training or the test part.

    Args:
        paths: The files, as :func:`locate` returns them.
        part: ``"train"`` (60,000 digits) or ``"t10k"`` (10,000 digits, the test part).

    Returns:
        Images (digits, 28, 28) of uint8 and labels (digits,) of int64.

    Raises:
        DataError: A file is damaged.
    """
    images, labels = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    for name in (images, labels):
        if name not in paths:
            raise DataError(
                f"paths must name {name}, got {list(paths)}: give what locate() returns"
            )
    # The checksums fix the contents, so the headers (16 and 8 bytes) need no parsing.
    pixels = bytearray(read_bytes(images, paths[images]))
    digits = bytearray(read_bytes(labels, paths[labels]))
    return (
        torch.frombuffer(pixels, dtype=torch.uint8, offset=16).reshape(-1, 28, 28),
        torch.frombuffer(digits, dtype=torch.uint8, offset=8).long(),
    )


def _present(folder: Path) -> dict[str, Path]:
    try:
        folder.is_dir()
    except OSError as error:  # such as a name that is too long
        raise DataError(f"{shown(str(folder))} cannot be read: {error.strerror}") from error
    candidates = {name: (folder / name, folder / f"{name}.gz") for name in FILES}
    return {
        name: next(path for path in paths if isfile(path))
        for name, paths in candidates.items()
        if any(isfile(path) for path in paths)  # also False without access to the folder
    }


def _above(start: Path) -> list[Path]:
    """Return ``data/mnist`` of a folder and of those above it."""
    return [folder / "data" / "mnist" for folder in (start, *start.parents)]


def _not_found(folders: list[Path], error: Exception) -> str:
    return (
        f"MNIST is neither in {folders[0]} nor in data/mnist of a folder above, nor in "
        f"{folders[-1]}, nor could it be had otherwise: {error}\n"
        "Run the command in a checkout of this repository, which holds the files, or name a folder "
        "that does with --data"
    )


def _complete(folder: Path, cure: str) -> dict[str, Path]:
    present = _present(folder)
    for name in FILES:
        if name not in present:
            raise DataError(f"{folder} holds neither {name} nor {name}.gz: {cure}")
    return present


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is damaged ({reason}): delete it, so that it is downloaded again, "
        "or put the original file in its place"
    )


def _download(name: str, cache: Path, mirrors: tuple[str, ...]) -> Path:
    failures = []
    for mirror in mirrors:
        url = f"{mirror}{name}.gz"
        try:
            content = _fetch(url)
            md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
            if md5 != FILES[name]:
                raise ValueError(f"its content has the md5 {md5}, expected {FILES[name]}")
        except (OSError, EOFError, ValueError, zlib.error) as error:
            failures.append(f"{url}: {error}")
            continue
        write_whole(cache / name, content)
        return cache / name
    raise DataError(f"{name} could not be downloaded to {cache}. Tried:\n" + "\n".join(failures))


def _fetch(url: str) -> bytes:
    require("pooch", extra="train")
    import pooch

    packed = io.BytesIO()
    download: Any = pooch.HTTPDownloader(progressbar=sys.stderr.isatty())
    download(url, packed, None)
    return gzip.decompress(packed.getvalue())
