"""What a layer's run over sequences shares with that of others: pieces, and empty batches."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import PackedSequence

from lmu.layers._ragged import unpack
from lmu.layers.state import State, map_state

# (x, state, lengths) -> output of all steps or of the last, and the state after it
Run = Callable[[Any, State, Any], tuple[Any, State]]


def in_pieces(run: Run, x: Any, state: State, lengths: Any, resets: Any) -> tuple[Any, State]:
    """Run over sequences of which some may start anew in between; or over an empty batch.

    The run is cut wherever a sequence starts anew, and goes on with a state that is zero there:
    each piece is a call like any other, and has its gradients.
    """
    if isinstance(x, Tensor) and x.ndim == 3 and x.shape[0] == 0:
        y, after = run(pad(x, (0, 0, 0, 0, 0, 1)), None, None)  # one sequence, and none of it
        return y[:0], map_state(lambda s: s[:0], after)
    if resets is None:
        return run(x, state, lengths)
    resets = _checked(resets, x)
    if resets.is_meta:  # nothing tells where
        return run(x, state, lengths)
    if lengths is not None:
        _, ragged = unpack(x, lengths)
        if ragged is None:  # the input is none, which the layer tells
            return run(x, state, lengths)
        # Padding starts nothing.
        lengths, resets = ragged.lengths, resets & ragged.inside.squeeze(2)
    cuts = sorted({0, *resets.any(0).nonzero().flatten().tolist()})
    outputs, length = [], x.shape[1]
    for start, stop in zip(cuts, [*cuts[1:], length], strict=True):
        if state is not None:
            state = _restart(state, resets[:, start])
        steps = None if lengths is None else (lengths - start).clamp(0, stop - start)
        y, state = run(x[:, start:stop], state, steps)
        outputs.append(y)
    return torch.cat(outputs, dim=1) if outputs[0].ndim == 3 else outputs[-1], state


def _checked(resets: Any, x: Any) -> Tensor:
    if isinstance(x, PackedSequence):
        raise TypeError("resets are of a padded batch (batch, time, input), not a PackedSequence")
    if not isinstance(resets, Tensor) or resets.dtype != torch.bool:
        kind = resets.dtype if isinstance(resets, Tensor) else type(resets).__name__
        raise TypeError(
            f"resets must be a bool tensor (batch, time), got {kind}: give dones.bool()"
        )
    if not isinstance(x, Tensor):
        raise TypeError(f"the input must be a torch.Tensor, got {type(x).__name__}")
    if resets.shape != x.shape[:2]:
        raise ValueError(
            f"resets must have the shape (batch, time) = {tuple(x.shape[:2])}, "
            f"got {tuple(resets.shape)}"
        )
    return resets.to(x.device)


def _restart(state: State, rows: Tensor) -> State:
    def clear(s: Any) -> Tensor:
        if not isinstance(s, Tensor):
            raise TypeError(f"the state must be made of tensors, got {type(s).__name__}")
        if not s.ndim or s.shape[0] not in {1, len(rows)}:
            raise ValueError(
                f"the state must be of {len(rows)} sequences, or of one for all, got a part of "
                f"the shape {tuple(s.shape)}"
            )
        here = rows.view(-1, *[1] * (s.ndim - 1))
        return torch.where(here, torch.zeros_like(s), s)

    return map_state(clear, state)
