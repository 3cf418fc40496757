"""Calls of kernels, recorded with their buffers, to be run again by another processor.

Every pointer among a kernel's arguments comes from ``Tensor.data_ptr`` or ``ctypes.addressof``,
which tell its buffer. So the calls that the tests make here run elsewhere without PyTorch, by
``replay/replay.c``. What one kernel leaves for the next, as spectra, may lie in an order of the
processor's own: it is handed on there, and only what no other kernel reads is compared.
"""

import ctypes
import struct
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from lmu.ops import native, system


class Pointer(NamedTuple):
    """A field of the arguments, and the place in a buffer that it points to."""

    where: int
    buffer: int
    offset: int


class Buffer(NamedTuple):
    """A buffer of a call: its number, its bytes before and after, and the numbers that it holds."""

    number: int
    handed_on: bool  # its bytes are those that a call before has left
    before: bytes
    after: bytes
    dtype: torch.dtype


class Call(NamedTuple):
    """A kernel's name without the variant, its arguments, and its buffers."""

    name: str
    parts: int
    arguments: bytes
    pointers: list[Pointer]
    buffers: list[Buffer]


class Found(NamedTuple):
    """A buffer's owner, which keeps it, its address and size, and the numbers that it holds."""

    owner: Any
    start: int
    size: int
    dtype: torch.dtype

    def read(self) -> bytes:
        """Its bytes of now."""
        return ctypes.string_at(self.start, self.size)


class Recorder:
    """Records what goes through ``native.run`` and ``native.bind``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Call] = []
        self._found: dict[int, Found] = {}  # all are kept: no address comes again
        self._numbers: dict[int, int] = {}
        self._left: dict[int, bytes] = {}
        self._run, self._data_ptr, self._addressof = (
            native.run, Tensor.data_ptr, ctypes.addressof,
        )  # fmt: skip
        monkeypatch.setattr(Tensor, "data_ptr", self._tensor)
        monkeypatch.setattr(ctypes, "addressof", self._array)
        monkeypatch.setattr(native, "run", self.run)
        monkeypatch.setattr(native, "bind", self._bind)
        for name, module in list(sys.modules.items()):
            if name.startswith("lmu.ops.native."):  # what they keep was not recorded
                for function in vars(module).values():
                    getattr(function, "cache_clear", lambda: None)()
        for kept in list(system._systems.values()):
            if (owner := kept()) is not None:
                owner.plans.clear()

    @property
    def _tensor(self) -> Any:
        def data_ptr(tensor: Tensor) -> int:
            address = self._data_ptr(tensor)
            storage = tensor.untyped_storage()
            if address:
                self._found[address] = Found(
                    storage, storage.data_ptr(), storage.nbytes(), tensor.dtype
                )
            return address

        return data_ptr

    def _array(self, array: Any) -> int:
        address = self._addressof(array)
        dtype = {ctypes.c_float: torch.float32, ctypes.c_double: torch.float64}[array._type_]
        self._found[address] = Found(array, address, ctypes.sizeof(array), dtype)
        return address

    def _bind(self, name: str, dtype: torch.dtype, arguments: Any) -> Any:
        first, second = (field for field, *_ in arguments._fields_[:2])

        def step(x: int | None, y: int | None) -> int:
            setattr(arguments, first, x)
            setattr(arguments, second, y)
            self.run(name, dtype, arguments, 1)
            return 0

        return step

    def run(self, name: str, dtype: torch.dtype, arguments: Any, parts: int) -> None:
        """Run a kernel and record it."""
        used: dict[int, Found] = {}
        pointers = []
        for where, address in _addresses(type(arguments), arguments):
            found = self._owner(address)
            used.setdefault(found.start, found)
            index = list(used).index(found.start)
            pointers.append(Pointer(where, index, address - found.start))
        before = {start: found.read() for start, found in used.items()}
        image = bytes(arguments)
        self._run(name, dtype, arguments, parts)
        buffers = []
        for start, found in used.items():
            number = self._numbers.setdefault(start, len(self._numbers))
            handed_on, after = self._left.get(start) == before[start], found.read()
            buffers.append(Buffer(number, handed_on, before[start], after, found.dtype))
            if handed_on or after != before[start]:
                self._left[start] = after
        precision = {torch.float32: "f32", torch.float64: "f64"}[dtype]
        self.calls.append(Call(f"lmu_{name}_{precision}", parts, image, pointers, buffers))

    def _owner(self, address: int) -> Found:
        """The buffer of an address, which may lie within it."""
        if address in self._found:
            return self._found[address]
        return next(f for f in self._found.values() if f.start <= address < f.start + f.size)


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


def encode(calls: list[Call], variant: str) -> bytes:
    """The calls as replay.c reads them, for a variant of its library."""
    most = max(buffer.number for call in calls for buffer in call.buffers) + 1
    parts = [_numbers(most, len(calls))]
    for call in calls:
        name = f"{call.name}_{variant}\0".encode()
        parts += [_numbers(len(name)), name, _numbers(call.parts, len(call.buffers))]
        for buffer in call.buffers:
            parts.append(_numbers(buffer.number, buffer.handed_on))
            if not buffer.handed_on:
                parts += [_numbers(len(buffer.before)), buffer.before]
        parts += [_numbers(len(call.arguments)), call.arguments, _numbers(len(call.pointers))]
        parts += [_numbers(*pointer) for pointer in call.pointers]
    return b"".join(parts)


def _numbers(*values: int) -> bytes:
    return struct.pack(f"={len(values)}q", *values)


def compare(calls: list[Call], results: bytes) -> int:
    """Fail where another processor's results differ by more than rounding.

    Returns:
        How many buffers that a kernel had changed were compared.
    """
    compared = position = 0
    for i, call in enumerate(calls):
        (status,) = struct.unpack_from("=q", results, position)
        assert status == 0, call.name
        position += 8
        for buffer in call.buffers:
            got = results[position : position + len(buffer.after)]
            position += len(buffer.after)
            changed = buffer.before != buffer.after
            if changed and not _is_read_later(buffer.number, calls[i + 1 :]):
                compared += 1
                _check_same(call.name, got, buffer)
            elif not changed and not buffer.handed_on:
                assert got == buffer.before, f"{call.name} changed a buffer"
    assert position == len(results)
    return compared


def _is_read_later(number: int, calls: list[Call]) -> bool:
    return any(b.handed_on for call in calls for b in call.buffers if b.number == number)


def _check_same(name: str, result: bytes, buffer: Buffer) -> None:
    got, right = (
        torch.frombuffer(bytearray(data), dtype=buffer.dtype) for data in (result, buffer.after)
    )
    finite = right[right.isfinite()].abs()
    scale = finite.max().item() if right.is_floating_point() and len(finite) else 0.0
    tolerance = (1e-4 if "f32" in name else 1e-11) * scale  # as test_odd_sizes
    torch.testing.assert_close(
        got, right, rtol=0, atol=tolerance, equal_nan=True, msg=lambda text: f"{name}: {text}"
    )
