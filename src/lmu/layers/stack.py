"""Several layers on top of each other."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lmu._arguments import shown
from lmu.layers._call import (
    call,
    check_layer,
    gives_sequences,
    like_of,
    sizes_of,
    step,
    step_by_call,
)
from lmu.layers._checks import check_flag, check_input, check_probability
from lmu.layers._modules import is_hooked, name_of, unwrap
from lmu.layers._sequences import last_step, unpack
from lmu.layers._shard import Shard
from lmu.layers.memory import Lengths
from lmu.layers.state import State

# PyTorch's own eps of RMSNorm is another one in each dtype.
NORMS = {"layer": nn.LayerNorm, "rms": partial(nn.RMSNorm, eps=1e-5)}


def _state_of(layer: nn.Module) -> str:
    return "(h, m)" if hasattr(unwrap(layer), "_checked_state") else f"{name_of(layer)}'s"


def _outline(state: Any) -> str:
    """The nesting and shapes of a state."""
    if isinstance(state, (tuple, list)):
        return f"({', '.join(map(_outline, state))})"
    return str(tuple(state.shape)) if isinstance(state, Tensor) else type(state).__name__


class LMUStack(nn.Module):
    r"""A backbone of several layers: normalization before each, a residual path around it.

    .. math:: y_i = S_i y_{i-1} + \mathrm{dropout}(\mathrm{layer}_i(\mathrm{norm}_i(y_{i-1})))

    with :math:`y_0 = x`, and at the end :math:`\mathrm{norm}(y_n)`. ``S_i`` is the identity, or a
    learned matrix where a layer has another number of outputs than inputs.

    Args:
        layers: :class:`lmu.LMU`, :class:`lmu.LMUFFT`, :class:`lmu.Bidirectional` or stacks, each
            taking what the one before gives. Only the last may give its last step alone
            (``return_sequences=False``).
        norm: ``"layer"``, ``"rms"`` or None. The first layer's is of the input's features at each
            step, which hides how strong they are together; None leaves them as they are.
        residual: Add the path around each layer.
        dropout: Probability with which each output of a layer is dropped in training.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: Sizes do not fit together, there is no layer, an argument is out of range, or a
            single feature would be normalized, the input's or the last layer's, which leaves
            nothing of it.
    """

    _ends_at_last_step = True
    _shard: Shard | None = None  # which lmu.distributed sets

    def __init__(
        self,
        layers: Iterable[nn.Module],
        *,
        norm: str | None = "layer",
        residual: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not isinstance(layers, Iterable):
            raise TypeError(f"layers must be a list of layers, got {shown(layers)}")
        self.layers = nn.ModuleList(check_layer("each layer", layer) for layer in layers)
        self._check_chain()
        if norm is not None and (not isinstance(norm, str) or norm not in NORMS):
            raise ValueError(f"norm must be None or one of {list(NORMS)}, got {norm!r}")
        self.norm, self.residual = norm, check_flag("residual", residual)
        self.input_size, self.hidden_size = (
            sizes_of(self.layers[0])[0],
            sizes_of(self.layers[-1])[1],
        )
        single = [i for i, layer in enumerate(self.layers) if sizes_of(layer)[0] == 1]
        if norm is not None and (single or self.hidden_size == 1):
            where = f"before layer {single[0]}" if single else "at the end"
            left = "zero" if norm == "layer" else "its sign"
            raise ValueError(
                f"norm={norm!r} would leave of a single feature nothing but {left}, and there is "
                f"one {where}: pass norm=None, or make several features of it"
            )
        self.return_sequences = gives_sequences(self.layers[-1])
        like = self._like()
        factory: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        sizes = [sizes_of(layer) for layer in self.layers]
        make = (lambda _: nn.Identity()) if norm is None else (lambda n: NORMS[norm](n, **factory))
        self.norms = nn.ModuleList(make(size) for size, _ in sizes)
        self.last_norm = make(self.hidden_size)
        self.skips = nn.ModuleList(
            nn.Identity() if a == b else nn.Linear(a, b, bias=False, **factory) for a, b in sizes
        )
        if not residual:
            self.skips = nn.ModuleList()
        self.drop = nn.Dropout(check_probability("dropout", dropout))
        self.dropout = self.drop.p

    def _check_chain(self) -> None:
        if not self.layers:
            raise ValueError("layers must hold at least one layer")
        for i, (one, other) in enumerate(zip(self.layers[:-1], self.layers[1:], strict=True)):
            if sizes_of(one)[1] != sizes_of(other)[0]:
                raise ValueError(
                    f"layer {i} gives {sizes_of(one)[1]} features and layer {i + 1} takes "
                    f"{sizes_of(other)[0]}: make them equal"
                )
            if not gives_sequences(one):
                raise ValueError(
                    f"layer {i} gives its last step alone: pass it return_sequences=True"
                )

    def reset_parameters(self) -> None:
        """Draw all parameters again."""
        for module in (*self.layers, *self.norms, self.last_norm, *self.skips):
            if callable(reset := getattr(module, "reset_parameters", None)):
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
            state: What a call returned, to go on with the sequence: ``(output, (state of the first
                layer, state of the second, ...))``; zeros if None. The output is given again for a
                sequence of length 0; it may be None.
            lengths: Number of steps of each sequence (batch,); all if None. What lies beyond is
                padding, and has no influence on anything.
            return_sequences: Give the outputs of all steps, or of the last alone; as the last layer
                was built if None.

        Returns:
            The outputs of all steps (batch, time, hidden_size), zero in padding, or packed as the
            input was; of the last alone if that is what the last layer gives. And the state: the
            last output (batch, hidden_size), and a tuple with the state of each layer.

        Raises:
            TypeError: A dtype is not the layers'.
            ValueError: A shape or device does not fit, or a length is not within 0 and time.
        """
        y, ragged = unpack(x, lengths)
        like = self._like()
        # The dtype of a shard is not that of the arithmetic; the layers look at theirs.
        sharded = hasattr(like, "device_mesh")
        check_input(y, ("batch", "time"), self.input_size, y if sharded else like)
        steps = None if ragged is None else ragged.lengths
        ended = []
        states = self._states(state, len(y))
        for i, (layer, before) in enumerate(zip(self.layers, states, strict=True)):
            asked = return_sequences if i == len(self.layers) - 1 else None
            if asked is False and not getattr(unwrap(layer), "_ends_at_last_step", True):
                asked = None
            given, after = call(layer, self.norms[i](y), before, steps, asked)
            ended.append(after)
            if given.ndim == 2:
                y = self._end(y[:, -1]) if steps is None else last_step(y, steps)
            y = self._join(i, y, given)
        y = self.last_norm(y)
        if ragged is not None and y.ndim == 3:
            y = torch.where(ragged.inside, y, y.new_zeros(()))
        last = y
        if y.ndim == 3 and ragged is None:
            last = self._end(y[:, -1].clone())
        elif ragged is not None:
            last = last_step(y, ragged.lengths) if y.ndim == 3 else y
            last = ragged.ended(last, None if state is None else state[0])
        if y.ndim == 2 or return_sequences is False:
            return last, (last, tuple(ended))
        return (y if ragged is None else ragged.pack(y)), (last, tuple(ended))

    def step(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Advance one time step, for streams: the same numbers as over the whole sequence.

        Args:
            x: Input (batch, input_size).
            state: The state that the call before returned; zeros if None.

        Returns:
            The output (batch, hidden_size), and the state to give to the next call.

        Raises:
            TypeError: A layer has no steps, as :class:`lmu.Bidirectional` has none; or a dtype is
                not the layers'.
            ValueError: A shape or device does not fit.
        """
        if is_hooked(self):
            return step_by_call(self, x, state)
        like = self._like()
        sharded = hasattr(like, "device_mesh")
        check_input(x, ("batch",), self.input_size, x if sharded else like)
        ended = []
        states = self._states(state, len(x))
        for i, (layer, before) in enumerate(zip(self.layers, states, strict=True)):
            y, after = step(layer, self.norms[i](x), before)
            ended.append(after)
            x = self._join(i, x, y)
        x = self.last_norm(x)
        return x.clone(), (x, tuple(ended))

    def _end(self, y: Tensor) -> Tensor:
        """The sequence's last step, from the last step here."""
        return y if self._shard is None else self._shard.last(y)[0]

    def _join(self, i: int, x: Tensor, y: Tensor) -> Tensor:
        y = self.drop(y)
        return self.skips[i](x) + y if self.residual else y

    def _states(self, state: State, batch: int) -> tuple[State, ...]:
        if state is None:
            return (None,) * len(self.layers)
        pair = isinstance(state, (tuple, list)) and len(state) == 2
        parts = state[1] if pair else ()
        if pair and parts is None:
            return (None,) * len(self.layers)
        if not isinstance(parts, (tuple, list)) or len(parts) != len(self.layers):
            raise TypeError(
                f"the state of this stack must be {self._nesting()}, got {_outline(state)}"
            )
        output, shapes = state[0], {(batch, self.hidden_size), (1, self.hidden_size)}
        if output is not None and not (isinstance(output, Tensor) and output.shape in shapes):
            raise ValueError(
                f"the state of this stack must be {self._nesting()} with an output "
                f"{(batch, self.hidden_size)} or None, got {_outline(output)}"
            )
        for i, part in enumerate(parts):
            self._check_state(i, part, batch)
        return tuple(parts)

    def _check_state(self, i: int, state: State, batch: int) -> None:
        """Say which layer a wrong state belongs to; the layers check theirs themselves."""
        inner: Any = unwrap(self.layers[i])
        check = getattr(inner, "_checked_state", None)
        away = torch.compiler.is_compiling() or hasattr(self._like(), "device_mesh")
        if state is None or check is None or away:
            return
        try:
            check(batch, state)
        except (TypeError, ValueError) as wrong:
            raise type(wrong)(
                f"the state of layer {i}, {type(inner).__name__}, does not fit in the stack's "
                f"{self._nesting()}: {wrong}"
            ) from wrong

    def _nesting(self) -> str:
        return f"(output, ({', '.join(map(_state_of, self.layers))}))"

    def _like(self) -> Tensor:
        return like_of(self.layers[0])
