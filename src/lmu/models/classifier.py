"""A classifier of whole sequences."""

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from lmu.layers._call import asking
from lmu.layers._checks import check_input, check_probability, check_size
from lmu.layers._modules import unwrap
from lmu.layers._sequences import unpack
from lmu.models._config import describe
from lmu.models._hub import HubModel


class SequenceClassifier(nn.Module, HubModel):
    """Classify a sequence by the last hidden state: ``logits = W dropout(h_T) + b``.

    A layer of lmu computes that state alone, whatever its ``return_sequences``.

    Args:
        layer: Any layer of lmu, or any module with an integer ``hidden_size`` that maps x (batch,
            time, input_size) to ``(output, h_n)`` or ``(output, (h_n, ...))``, with h_n (batch,
            hidden_size), or a tuple that starts with it. Also ``nn.LSTM``, ``nn.GRU`` and
            ``nn.RNN`` with ``batch_first=True`` and one direction, whose last layer is read.
        num_classes: Number of classes, at least 2.
        dropout: Probability that a hidden unit is dropped in training, in [0, 1).

    Raises:
        TypeError: The layer is not a module with an integer ``hidden_size``, or ``num_classes`` is
            not an integer.
        ValueError: ``num_classes`` or ``dropout`` is out of range, or a PyTorch layer is not
            batch-first or has two directions.
    """

    def __init__(self, layer: nn.Module, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        inner = unwrap(layer)
        hidden_size = getattr(inner, "hidden_size", None)
        if not isinstance(layer, nn.Module) or not isinstance(hidden_size, int):
            raise TypeError(
                f"layer must be a module with an integer hidden_size, such as LMU or LMUFFT, "
                f"got {type(layer).__name__}"
            )
        if isinstance(inner, nn.RNNBase) and (
            inner.bidirectional or inner.proj_size or not inner.batch_first
        ):
            raise ValueError(
                f"{type(inner).__name__} must have batch_first=True, bidirectional=False and "
                f"proj_size=0, got {inner.batch_first}, {inner.bidirectional} and "
                f"{inner.proj_size}"
            )
        if not isinstance(num_classes, int) or isinstance(num_classes, bool):
            raise TypeError(f"num_classes must be an integer, got {num_classes!r}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        check_size("num_classes", num_classes)
        check_probability("dropout", dropout)
        self.layer, self.num_classes = layer, num_classes
        self.dropout = nn.Dropout(dropout)
        like = getattr(inner, "_like", lambda: next(inner.parameters(), None))()
        factory = {} if like is None else {"device": like.device, "dtype": like.dtype}
        self.classifier = nn.Linear(hidden_size, num_classes, **factory)

    def forward(self, x: Tensor | PackedSequence, lengths: Any = None) -> Tensor:
        """Logits of each class.

        Args:
            x: Sequences (batch, time, input_size), or a ``PackedSequence``.
            lengths: Number of steps of each sequence (batch,); all if None.

        Returns:
            Logits (batch, num_classes).
        """
        return self.classifier(self.dropout(self._last(x, lengths)))

    def _last(self, x: Tensor | PackedSequence, lengths: Any) -> Tensor:
        """Return the last hidden state (batch, hidden_size)."""
        inner: Any = unwrap(self.layer)
        is_torch = isinstance(inner, nn.RNNBase)
        if is_torch and not isinstance(x, PackedSequence):
            check_input(x, ("batch", "time"), inner.input_size, next(inner.parameters()))
        if is_torch and lengths is not None:
            x, ragged = unpack(x, lengths)
            assert ragged is not None
            steps = ragged.lengths.cpu()
            x = pack_padded_sequence(x, steps, batch_first=True, enforce_sorted=False)
            lengths = None
        options: dict[str, Any] = asking(self.layer, False)
        if lengths is not None:
            options["lengths"] = lengths
        _, state = self.layer(x, **options)
        while not isinstance(state, Tensor):
            state = state[0]
        return state[-1] if is_torch else state  # nn.RNNBase: (layers, batch, hidden_size)

    def hub_arguments(self) -> dict[str, Any]:
        """The constructor's arguments as plain data."""
        return {
            "layer": describe(unwrap(self.layer)),
            "num_classes": self.num_classes,
            "dropout": self.dropout.p,
        }
