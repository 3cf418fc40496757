"""Calls of kernels, recorded with their buffers, to be run again by another processor.

Every pointer among a kernel's arguments comes from ``Tensor.data_ptr``, which tells its buffer. So
the calls that the tests make here run elsewhere without PyTorch: by ``replay/replay.c``.
"""

import ctypes
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from lmu.ops import native


class Pointer(NamedTuple):
    """A field of the arguments, and the place in a buffer that it points to."""

    where: int
    buffer: int
    offset: int


class Call(NamedTuple):
    """A kernel's name without the variant, its arguments, and its buffers before and after."""

    name: str
    parts: int
    arguments: bytes
    pointers: list[Pointer]
    before: list[bytes]
    after: list[Tensor]


class Recorder:
    """Records what goes through ``native.run``, in variant "baseline"."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Call] = []
        # All are kept: an address must not come again for another buffer.
        self._found: dict[int, tuple[torch.UntypedStorage, torch.dtype]] = {}
        self._run = native.run
        monkeypatch.setattr(Tensor, "data_ptr", self._noted(Tensor.data_ptr))
        monkeypatch.setattr(native, "run", self.run)

    def _noted(self, data_ptr: Any) -> Any:
        def noted(tensor: Tensor) -> int:
            address = data_ptr(tensor)
            if address:
                self._found[address] = tensor.untyped_storage(), tensor.dtype
            return address

        return noted

    def run(self, name: str, dtype: torch.dtype, arguments: Any, parts: int) -> None:
        """Run a kernel and record it."""
        buffers: dict[int, tuple[torch.UntypedStorage, torch.dtype]] = {}
        pointers = []
        for where, address in _addresses(type(arguments), arguments):
            start = self._found[address][0].data_ptr()
            buffers.setdefault(start, self._found[address])
            pointers.append(Pointer(where, list(buffers).index(start), address - start))
        before = [_bytes(storage) for storage, _ in buffers.values()]
        image = bytes(arguments)
        self._run(name, dtype, arguments, parts)
        after = [torch.frombuffer(bytearray(_bytes(s)), dtype=d) for s, d in buffers.values()]
        precision = {torch.float32: "f32", torch.float64: "f64"}[dtype]
        self.calls.append(Call(f"lmu_{name}_{precision}", parts, image, pointers, before, after))


def _addresses(kind: Any, value: Any, start: int = 0) -> Iterator[tuple[int, int]]:
    """Where pointers lie in a struct, and what they are, but for NULL."""
    for name, field, *_ in kind._fields_:
        where, content = start + getattr(kind, name).offset, getattr(value, name)
        if field is ctypes.c_void_p and content:
            yield where, content
        elif issubclass(field, ctypes.Structure):
            yield from _addresses(field, content, where)
        elif issubclass(field, ctypes.Array) and field._type_ is ctypes.c_void_p:
            yield from ((where + 8 * i, p) for i, p in enumerate(content) if p)


def _bytes(storage: torch.UntypedStorage) -> bytes:
    return ctypes.string_at(storage.data_ptr(), storage.nbytes())


def encode(calls: list[Call], variant: str) -> bytes:
    """The calls as replay.c reads them, for a variant of its library."""
    parts = [_numbers(len(calls))]
    for call in calls:
        name = f"{call.name}_{variant}".encode()
        parts += [_numbers(len(name)), name, b"\0", _numbers(call.parts, len(call.before))]
        for buffer in call.before:
            parts += [_numbers(len(buffer)), buffer]
        parts += [_numbers(len(call.arguments)), call.arguments, _numbers(len(call.pointers))]
        parts += [_numbers(*pointer) for pointer in call.pointers]
    return b"".join(parts)


def _numbers(*values: int) -> bytes:
    return struct.pack(f"={len(values)}q", *values)


def compare(calls: list[Call], results: bytes) -> None:
    """Fail where another processor's results differ by more than rounding."""
    position = 0
    for call in calls:
        (status,) = struct.unpack_from("=q", results, position)
        assert status == 0, call.name
        position += 8
        for right in call.after:
            size = right.numel() * right.itemsize
            got = bytearray(results[position : position + size])
            position += size
            _same(call.name, torch.frombuffer(got, dtype=right.dtype), right)
    assert position == len(results)


def _same(name: str, got: Tensor, right: Tensor) -> None:
    if right.is_floating_point():
        finite = right[right.isfinite()].abs()
        scale = finite.max().item() if len(finite) else 0.0
        tolerance = (1e-5 if "f32" in name else 1e-12) * scale
    else:
        tolerance = 0.0
    torch.testing.assert_close(
        got, right, rtol=0, atol=tolerance, equal_nan=True, msg=lambda text: f"{name}: {text}"
    )
