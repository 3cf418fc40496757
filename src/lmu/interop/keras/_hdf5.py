"""Reading of HDF5 files that may be damaged or malicious.

HDF5 lets a file name others, whose bytes would be read into the weights, declare numbers that it
does not hold, and load code to decompress them. Keras does none of this: it writes groups with
uncompressed arrays of floats. Anything else is refused before it is read.
"""

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Errors of h5py for damaged files; it has no exception of its own.
H5_ERRORS = (
    OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError,
    OverflowError, NotImplementedError, MemoryError,
)  # fmt: skip
_AGAIN = "save the model again with Keras"
_LONGEST = 1000  # characters of a name


class RefusedError(ValueError):
    """A file is refused; the message is complete."""


@dataclass
class Reader:
    """Reads one file within bounds.

    Attributes:
        path: Name of the file in messages.
        bytes_left: Bytes of arrays still allowed: at most those of the file, however often arrays
            are linked.
        objects_left: Groups and arrays still allowed; a layer has about ten.
        depth: Depth of groups; Keras nests five.
    """

    path: str
    bytes_left: int
    objects_left: int = 100_000
    depth: int = 12

    @contextmanager
    def open(self, content: bytes) -> Iterator[Any]:
        """Open the content of a file, read as a whole, so that the checked bytes are those used."""
        import h5py

        self._check_heaps(content)
        with h5py.File(io.BytesIO(content), "r") as file:
            if file.id.get_create_plist().get_sizes() != (8, 8):
                raise self.refuse("its addresses have other than the usual 8 bytes")
            yield file

    def _check_heaps(self, content: bytes) -> None:
        """Refuse damaged heaps of texts, in which HDF5's library loops for ever."""
        start = -1
        while (start := content.find(b"GCOL\x01", start + 1)) >= 0:
            size = int.from_bytes(content[start + 8 : start + 16], "little")
            at, end = start + 16, start + size
            while at + 16 <= end <= len(content):
                index, _, length = struct.unpack_from("<HHxxxxQ", content, at)
                at += length if index == 0 else 16 + (length + 7) // 8 * 8
                if (index, length) == (0, 0) or at > end:
                    raise self.refuse("a list of texts in it is damaged")

    def refuse(self, what: str, cure: str = _AGAIN) -> RefusedError:
        """Make an exception to raise."""
        return RefusedError(f"{self.path}: {what}: {cure}")

    def names(self, group: Any) -> list[str]:
        """Return names of the members of a group, in order."""
        self.objects_left -= len(group)
        if self.objects_left < 0 or group.name.count("/") > self.depth:
            raise self.refuse(
                f"the group {group.name[:_LONGEST]!r} has {len(group):,} members below "
                f"{group.name.count('/')} others, more than the layers of a model"
            )
        return list(group)

    def members(self, group: Any) -> Iterator[tuple[str, Any]]:
        """Iterate over the members of a group, which are groups and arrays of this file."""
        for name in self.names(group):
            yield name, self.member(group, name)

    def member(self, group: Any, name: str) -> Any:
        """Return a member of a group."""
        import h5py

        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise self.refuse(
                f"{group.name}/{name} is a {type(link).__name__} to {getattr(link, 'path', '?')!r}"
                " and not an object of its own, as Keras writes them"
            )
        member = group[name]
        if not isinstance(member, (h5py.Group, h5py.Dataset)):
            raise self.refuse(f"{group.name}/{name} is neither a group nor an array")
        return member

    def group(self, group: Any, name: str) -> Any:
        """Return a member of a group that must be a group."""
        import h5py

        member = self.member(group, name)
        if not isinstance(member, h5py.Group):
            raise self.refuse(f"{member.name} is an array where a group is expected")
        return member

    def array(self, dataset: Any) -> Tensor:
        """Read the numbers of an array, as float64."""
        import h5py
        import numpy as np

        if not isinstance(dataset, h5py.Dataset):
            raise self.refuse(f"{dataset.name} is a group where an array is expected")
        self._check_storage(dataset)
        size = math.prod(dataset.shape) * dataset.dtype.itemsize
        held = dataset.id.get_storage_size()
        self.bytes_left -= size
        if size != held or self.bytes_left < 0:
            raise self.refuse(
                f"{dataset.name} declares {size:,} bytes by its shape {dataset.shape}, of which "
                f"the file holds {min(held, self.bytes_left + size):,}"
            )
        with np.errstate(invalid="ignore"):  # signaling NaNs
            return torch.as_tensor(np.asarray(dataset[()], dtype=np.float64))

    def _check_storage(self, dataset: Any) -> None:
        from h5py import h5d, h5t  # pyright: ignore[reportAttributeAccessIssue]

        how = dataset.id.get_create_plist()
        if how.get_external_count() or how.get_layout() == h5d.VIRTUAL:
            raise self.refuse(f"the numbers of {dataset.name} lie in another file")
        if how.get_layout() not in {h5d.CONTIGUOUS, h5d.COMPACT} or how.get_nfilters():
            raise self.refuse(
                f"{dataset.name} is stored in chunks or compressed",
                "Keras writes arrays as they are; save the model again, or rewrite the file by "
                "h5repack -f NONE -l CONTI",
            )
        sizes = ("IEEE_F16", "IEEE_F32", "IEEE_F64")
        known = [getattr(h5t, size + order) for size in sizes for order in ("LE", "BE")]
        kind = dataset.id.get_type()
        if not any(kind.equal(one) for one in known):
            raise self.refuse(
                f"{dataset.name} holds {dataset.dtype}, not float16, float32 or float64",
                "save the model again in one of these",
            )
        if dataset.shape is None:
            raise self.refuse(f"{dataset.name} holds no numbers")

    def text(self, group: Any, name: str) -> str | None:
        """Read a text attribute of a group, if there is one."""
        import h5py

        if name not in group.attrs:
            return None
        attribute = group.attrs.get_id(name)
        is_text = attribute.shape == () and h5py.check_string_dtype(attribute.dtype) is not None
        value = group.attrs[name] if is_text else None
        value = value.decode() if isinstance(value, bytes) else value
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
            raise self.refuse(
                f"the attribute {name!r} of {group.name} is no text of 1 to {_LONGEST} characters"
            )
        return value
