"""Matrices that a block of the nonlinear LMU multiplies, built from its weights."""

from typing import NamedTuple

import torch
from torch import Tensor

from lmu._arguments import checked, tensor, whole
from lmu.ops.lmu.naive import LMUWeights


class BlockDynamics(NamedTuple):
    """Powers of the memory's dynamics for a block; constant unless these are learned."""

    increments: Tensor  # (steps + 1, order, order), Ad^j - I
    H: Tensor  # (steps * channels, order), Ad^j Bd: a row for each column of Bd, step after step


class BlockMatrices(NamedTuple):
    """Matrices of a block; see :func:`block_matrices`."""

    X: Tensor  # (input, width): from the input to a block state
    M: Tensor  # (width, width): from a block state to the next
    W: Tensor  # (width, order): from the memory before a step to its state
    D: Tensor  # (steps + 1, order, order): Ad^j - I
    H: Tensor  # (steps * channels, order): from the input history to the memory after the block


@checked(hidden=whole(1), channels=whole(1))
def block_length(hidden: int, channels: int = 1) -> int:
    """Steps of a block, such that block states fill whole vectors of 16 floats.

    From 8 to 23 with one channel; with several about as many past inputs, but at least 4 steps.
    """
    if channels == 1:
        return 8 + -(hidden + 8) % 16
    steps = max(4, 16 // channels)
    return steps + -(hidden + steps * channels) % 16 // channels


@checked(E=tensor(floating=True), Bd=tensor(floating=True), steps=whole(1, 2**20))
def block_dynamics(E: Tensor, Bd: Tensor, steps: int) -> BlockDynamics:
    """Increments ``Ad^j - I`` for j <= steps by doubling, and the rows of ``Ad^j Bd``, j < steps.

    ``Ad^{i+j} - I = D_i D_j + D_i + D_j``: nothing close to one is ever rounded.

    Shapes: ``E`` = Ad - I (order, order) and ``Bd`` (order, channels), better in float64.
    """
    terms = torch.stack([torch.zeros_like(E), E])
    while (n := len(terms)) <= steps:
        # From D_0 ... D_{n-1} the next n-1 ones: D_{n-1+j}, j >= 1.
        known = terms[1 : steps + 2 - n]
        terms = torch.cat([terms, known @ terms[-1] + known + terms[-1]])
    return BlockDynamics(terms, (Bd + terms[:-1] @ Bd).mT.flatten(0, 1))


def block_matrices(weights: LMUWeights, dynamics: BlockDynamics) -> BlockMatrices:
    """Build the matrices of a block, differentiably."""
    w = weights
    n, k, d = w.W_m.shape[0], w.W_x.shape[1], w.W_m.shape[1]
    D, H = dynamics
    c, history = len(w.e_x), len(H)
    width = n + history + -(n + history) % 16
    # Rows of a and of u beside each other, then u inserted into a; columns of x, h and m.
    kernel = torch.cat([w.W_x, w.W_h, w.W_m + w.W_m @ D[1]], dim=1)
    encoder = torch.cat([w.e_x, w.e_h, w.e_m], dim=1)
    kernel = torch.addmm(kernel, w.W_m @ H[:c].mT, encoder)
    rows = torch.cat([kernel, encoder, kernel.new_zeros(width - n - c, k + n + d)])
    X, hidden, memory = rows.split((k, n, d), dim=1)
    shift = torch.eye(history, width - n - c, dtype=H.dtype, device=H.device)
    past = H @ memory.mT + torch.nn.functional.pad(shift, (n + c, 0))
    M = torch.cat([hidden.mT, past, H.new_zeros(width - n - history, width)])
    return BlockMatrices(X.mT.contiguous(), M, memory.contiguous(), D, H)
