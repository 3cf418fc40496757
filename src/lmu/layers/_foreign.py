"""Checkpoints of other ports and of the first edition, whose entries have other names."""

import math
import warnings
from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_FOREIGN = {"A": "Ad", "B": "Bd"}  # their names, and ours
_IGNORED = ("H", "fft_H")
_FLAT = ("Ad", "Bd", "log_theta", *_FOREIGN, *_IGNORED)


def present_name(name: str, names: Container[str]) -> str:
    """The name that an entry has here, of those that a module's entries have."""
    prefix, _, leaf = name.rpartition(".")
    nested = ".".join([*([prefix] if prefix else []), "memory", leaf])
    return nested if name not in names and nested in names else name


def adopt(
    memory: Any,
    state_dict: dict[str, Any],
    prefix: str,
    metadata: Mapping[str, Any],
    layer: str,
    errors: list[str],
) -> None:
    """Rename the memory's entries where a checkpoint has them flat among the layer's.

    Args:
        memory: The :class:`lmu.LegendreMemory` of the layer.
        state_dict: Changed in place.
        prefix: Of the layer's names.
        metadata: The layer's in the checkpoint; that of the first edition has its dynamics.
        layer: Its name.
        errors: Appended to.
    """
    compare_dynamics(memory._facts(), metadata.get("dynamics"), layer, errors)
    old = memory.discretizer == "euler" and metadata and metadata.get("version") != 2
    if prefix + "log_theta" in state_dict and old:
        errors.append(
            f"{prefix}log_theta is log(theta - b) with the least theta b that Euler's method "
            "allowed when it was saved, which is another now: set it to "
            f"log(theta - {memory._least_theta:g})"
        )
    for name in _FLAT:
        value = state_dict.pop(prefix + name, None)
        if value is not None:
            state_dict.setdefault(f"{prefix}memory.{name}", value)


def compare_dynamics(own: dict[str, Any], theirs: Any, layer: str, errors: list[str]) -> None:
    """Say so if weights were saved by a layer with other constant dynamics.

    Args:
        own: ``_facts()`` of a memory; None is learned, and so in the checkpoint.
        theirs: The same of the checkpoint; None if it does not tell.
        layer: Its name.
        errors: Appended to.
    """
    for name, value in (theirs if isinstance(theirs, Mapping) else {}).items():
        if name not in own or None in (value, own[name]) or _alike(value, own[name]):
            continue
        what = (
            "matrices that were assigned or passed to it"
            if name == "replaced"
            else f"{name}={value!r}"
        )
        here = "Legendre's" if name == "replaced" else f"{name}={own[name]!r}"
        if name == "replaced" and own[name]:
            what, here = "other matrices" if value else here, "matrices of its own"
        errors.append(
            f"layer {layer!r} was saved with {what}, and is built with {here} here: build it "
            "alike; or, to use its weights with other dynamics, load dict(state_dict), which "
            "carries no metadata and is not compared"
        )


def _alike(one: Any, other: Any) -> bool:
    """True if thetas or discretizers lead to the same matrices, up to rounding."""
    if isinstance(one, bool) or isinstance(other, bool):  # of the first edition
        return bool(one) == bool(other)
    if isinstance(one, str) and isinstance(other, str):
        return one.removesuffix("-unchecked") == other.removesuffix("-unchecked")
    ones: list[Any] = list(one) if isinstance(one, (list, tuple)) else [one]
    others: list[Any] = list(other) if isinstance(other, (list, tuple)) else [other]
    number = max(len(ones), len(others))
    if {len(ones), len(others)} - {1, number}:
        return False
    pairs = zip(ones * (number // len(ones)), others * (number // len(others)), strict=True)
    return all(math.isclose(a, b, rel_tol=1e-6) for a, b in pairs)


def translate(
    state_dict: dict[str, Any],
    prefix: str,
    exact: dict[str, Tensor],
    parameters: dict[str, nn.Parameter | None],
    errors: list[str],
    name: str,
) -> None:
    """Take their matrices out of a state_dict: to ours where these are learned, else to compare.

    Args:
        state_dict: Changed in place.
        prefix: Of the layer's names.
        exact: ``Ad`` and ``Bd`` of the layer's theta.
        parameters: Of the layer; with ``log_theta`` the matrices follow from it, and theirs are not
            read.
        errors: Appended to, where a shape does not fit.
        name: What the layer computes with, for a warning.
    """
    for theirs, ours in _FOREIGN.items():
        value = state_dict.pop(prefix + theirs, None)
        if value is None:
            continue
        right = exact[ours]
        if value.numel() != right.numel():
            shape = tuple(value.shape)
            errors.append(f"{prefix}{theirs} has the shape {shape}, ours is {tuple(right.shape)}")
        elif "log_theta" in parameters:
            continue
        elif ours in parameters:
            state_dict.setdefault(prefix + ours, value.reshape(right.shape))
        else:
            _compare(prefix + theirs, value.reshape(right.shape), right, name)
    for theirs in _IGNORED:
        state_dict.pop(prefix + theirs, None)


def _compare(key: str, theirs: Tensor, exact: Tensor, name: str) -> None:
    """Say so if a checkpoint was made with other dynamics than the layer computes with."""
    if theirs.is_meta:  # no values to compare
        return
    # What tells windows apart is how far the matrix is from the identity.
    identity = torch.eye(exact.shape[-1], dtype=exact.dtype, device=exact.device)
    scale = (exact - identity if key.endswith("A") else exact).abs().max()
    difference = (theirs.to("cpu", torch.float64) - exact).abs().max()
    if not difference < 1e-3 * scale + 1e-6:
        warnings.warn(
            f"{key} in the state_dict is not the matrix of {name} (they differ by "
            f"{difference.item():.2g}); the layer goes on with its own. Was the checkpoint made "
            "with another theta, or with trained dynamics (learn_a, learn_b)?",
            stacklevel=2,
        )
