"""Padded sequences and their pieces: padding influences neither results nor gradients."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lmu.layers.state import State, map_state

# (x, state, lengths) -> output of all steps or of the last, and the state after it
Run = Callable[[Any, State, Any], tuple[Any, State]]


@dataclass
class Ragged:
    """A padded batch, the lengths in it, and what it was packed in."""

    x: Tensor  # (batch, time, ...), zero beyond each length
    lengths: Tensor  # (batch,), on the device of x
    packed: PackedSequence | None

    @property
    def inside(self) -> Tensor:
        """Which steps are no padding (batch, time, 1)."""
        return inside(self.lengths, self.x.shape[1])

    def ended(self, last: Tensor, before: Tensor | None) -> Tensor:
        """``last`` (batch, size), but of sequences without a step what was there before."""
        before = last.new_zeros(()) if before is None else before.to(last.dtype)
        return torch.where((self.lengths > 0)[:, None], last, before)

    def pack(self, y: Tensor) -> Any:
        """The output in the form that the input had."""
        if self.packed is None:
            return y
        like = self.packed
        if like.sorted_indices is not None:
            y = y[like.sorted_indices]
        lengths = self.lengths if like.sorted_indices is None else self.lengths[like.sorted_indices]
        packed = pack_padded_sequence(y, lengths.cpu(), batch_first=True)
        return PackedSequence(
            packed.data, like.batch_sizes, like.sorted_indices, like.unsorted_indices
        )


def unpack(x: Any, lengths: Any) -> tuple[Tensor, Ragged | None]:
    """The padded input, and how it is ragged, or None if all sequences are of one length.

    Args:
        x: (batch, time, ...), or a ``PackedSequence``.
        lengths: Number of steps of each sequence, as a tensor or list of ints; or None.

    Raises:
        TypeError: ``lengths`` are not integers, or come with a ``PackedSequence``.
        ValueError: There is not one for each sequence, or one is not within 0 and time.
    """
    if isinstance(x, PackedSequence):
        if lengths is not None:
            raise TypeError("a PackedSequence has its own lengths: leave out lengths=")
        padded, steps = pad_packed_sequence(x, batch_first=True)
        return padded, Ragged(padded, steps.to(padded.device), x)
    if lengths is None or not isinstance(x, Tensor) or x.layout is not torch.strided:
        return x, None
    try:
        lengths = torch.as_tensor(lengths, device=x.device)
        lengths = lengths if lengths.numel() else lengths.long()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"lengths must be integers, got {lengths!r}") from error
    if lengths.layout is not torch.strided:
        raise TypeError(f"lengths must be dense, got {lengths.layout}: give lengths.to_dense()")
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        hint = ": of a mask (batch, time) give mask.sum(1)" if lengths.dtype == torch.bool else ""
        raise TypeError(f"lengths must be integers, got {lengths.dtype}{hint}")
    lengths = lengths.long()
    if x.ndim != 3:
        return x, None  # which the layer refuses
    if lengths.shape != x.shape[:1]:
        raise ValueError(
            f"lengths must hold one number for each of the {len(x)} sequences, "
            f"got the shape {tuple(lengths.shape)}"
        )
    traced = torch.compiler.is_compiling() or lengths.is_meta  # values are not known there
    if not traced and not ((lengths >= 0) & (lengths <= x.shape[1])).all():
        raise ValueError(
            f"lengths must lie within 0 and {x.shape[1]}, the steps of the input, "
            f"got {lengths.min().item()} to {lengths.max().item()}"
        )
    # Chosen, not multiplied: padding may be NaN, and then neither is its gradient to be.
    padded = torch.where(inside(lengths, x.shape[1]), x, x.new_zeros(()))
    return padded, Ragged(padded, lengths, None)


def inside(lengths: Tensor, time: int) -> Tensor:
    """Which steps are no padding (batch, time, 1)."""
    return (torch.arange(time, device=lengths.device) < lengths[:, None]).unsqueeze(2)


def last_step(y: Tensor, lengths: Tensor) -> Tensor:
    """The step of ``y`` (batch, time, size) at which each sequence ends, (batch, size).

    Of a sequence without a step it is the first, which is padding.
    """
    return at_steps(y, (lengths - 1).clamp(min=0)[:, None]).squeeze(1)


def at_steps(y: Tensor, steps: Tensor) -> Tensor:
    """``y`` (batch, time, size) at ``steps`` (batch, n) of each sequence, (batch, n, size).

    Not by take_along_dim, of which a compiler makes a graph for each length.
    """
    return y.gather(1, steps.unsqueeze(2).expand(-1, -1, y.shape[2]))


def align_right(x: Tensor, lengths: Tensor) -> Tensor:
    """Shift each sequence to the end of the batch's time, zeros before it."""
    return _shift(x, lengths - x.shape[1])


def align_left(x: Tensor, lengths: Tensor) -> Tensor:
    """Undo :func:`align_right`; zeros behind each sequence."""
    return _shift(x, x.shape[1] - lengths)


def reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence backwards, its padding where it was."""
    t = torch.arange(x.shape[1], device=x.device)
    source = torch.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)
    return at_steps(x, source)


def _shift(x: Tensor, by: Tensor) -> Tensor:
    source = torch.arange(x.shape[1], device=x.device) + by[:, None]
    valid = (source >= 0) & (source < x.shape[1])
    y = at_steps(x, source.clamp(0, x.shape[1] - 1))
    return torch.where(valid.unsqueeze(2), y, y.new_zeros(()))


def in_pieces(run: Run, x: Any, state: State, lengths: Any, resets: Any) -> tuple[Any, State]:
    """Run over sequences that may be reset in between, or over an empty batch.

    The run is cut at each reset, and goes on with a state that is zero in the sequences that are
    reset: each piece is a call like any other, and has its gradients.
    """
    if isinstance(x, Tensor) and x.ndim == 3 and x.shape[0] == 0:
        y, after = run(pad(x, (0, 0, 0, 0, 0, 1)), None, None)  # one sequence, and none of it
        return y[:0], map_state(lambda s: s[:0], after)
    if resets is None:
        return run(x, state, lengths)
    resets = _checked(resets, x)
    if resets.is_meta:  # without values
        return run(x, state, lengths)
    if lengths is not None:
        _, ragged = unpack(x, lengths)
        if ragged is None:  # the layer refuses this input
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
