"""A layer that runs forwards and one that runs backwards."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lmu.layers._call import call, check_layer, gives_sequences, hidden_of, like_of, sizes_of
from lmu.layers._checks import check_input, check_pair
from lmu.layers._sequences import reverse, unpack
from lmu.layers.memory import Lengths
from lmu.layers.state import State


class Bidirectional(nn.Module):
    """Run one layer forwards and another backwards over a sequence, side by side.

    Args:
        forward_layer: :class:`lmu.LMU`, :class:`lmu.LMUFFT` or :class:`lmu.LMUStack`.
        backward_layer: Another one, of the same input size.

    Raises:
        TypeError: An argument is no such layer.
        ValueError: Input sizes differ, both are the same object, or one gives all steps and the
            other the last.
    """

    def __init__(self, forward_layer: nn.Module, backward_layer: nn.Module) -> None:
        super().__init__()
        self.forward_layer = check_layer("forward_layer", forward_layer)
        self.backward_layer = check_layer("backward_layer", backward_layer)
        if forward_layer is backward_layer:
            raise ValueError("forward_layer and backward_layer must be two layers: build another")
        (ahead, hidden), (back, other) = sizes_of(forward_layer), sizes_of(backward_layer)
        if ahead != back:
            raise ValueError(f"both layers must have one input_size, got {ahead} and {back}")
        if gives_sequences(forward_layer) != gives_sequences(backward_layer):
            raise ValueError("return_sequences must be the same in both layers")
        self.input_size, self.hidden_size = ahead, hidden + other
        self.return_sequences = gives_sequences(forward_layer)

    _ends_at_last_step = False  # one layer ends at the first, where its output at the last begins

    def reset_parameters(self) -> None:
        """Draw all parameters again."""
        for layer in self.children():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: State = None,
        *,
        lengths: Lengths = None,
        return_sequences: bool | None = None,
    ) -> tuple[Any, State]:
        """Run over a sequence.

        Args:
            x: Input (batch, time, input_size), of any length; or a ``PackedSequence``.
            state: What the layers start from, as the second place of a returned state holds it:
                ``(None, (forward_state, backward_state))``; zeros if None. The backward layer
                starts at the end of the sequence.
            lengths: Number of steps of each sequence (batch,); all if None.
            return_sequences: Give the outputs of all steps, or of the last alone; as the layers
                were built if None.

        Returns:
            The outputs of both layers (batch, time, hidden_size), forward first, those of one step
            side by side; of the last step of each layer alone where that is what they give. And
            the state: the last outputs of both (batch, hidden_size), and the two layers' states.

        Raises:
            TypeError: A dtype is not the layers'.
            ValueError: A shape or device does not fit, or a length is not within 0 and time.
        """
        signal, ragged = unpack(x, lengths)
        check_input(signal, ("batch", "time"), self.input_size, self._like())
        if state is not None:
            check_pair(state)
        before = (None, None) if state is None or state[1] is None else state[1]
        check_pair(before, " for the two layers")
        steps = None if ragged is None else ragged.lengths
        ahead, end = call(self.forward_layer, signal, before[0], steps, return_sequences)
        turned = signal.flip(1) if steps is None else reverse(signal, steps)
        back, start = call(self.backward_layer, turned, before[1], steps, return_sequences)
        if back.ndim == 3:
            back = back.flip(1) if steps is None else reverse(back, steps)
        y = torch.cat([ahead, back], dim=-1)
        h_n = torch.cat([hidden_of(end), hidden_of(start)], dim=1)
        return y if ragged is None or y.ndim == 2 else ragged.pack(y), (h_n, (end, start))

    def _like(self) -> Tensor:
        return like_of(self.forward_layer)
