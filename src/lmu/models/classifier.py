"""A classifier of whole sequences."""

from torch import Tensor, nn


class SequenceClassifier(nn.Module):
    """Classify a sequence by the last hidden state: ``logits = W dropout(h_T) + b``.

    Args:
        layer: :class:`lmu.LMU`, :class:`lmu.LMUFFT` or any module with an integer ``hidden_size``
            that maps x (batch, time, input_size) to ``(output, h_n)`` or ``(output, (h_n, m_n))``,
            with h_n (batch, hidden_size).
        num_classes: Number of classes, at least 2.
        dropout: Probability that a hidden unit is dropped in training, in [0, 1).

    Raises:
        TypeError: The layer is not a module with an integer ``hidden_size``, or ``num_classes`` is
            not an integer.
        ValueError: ``num_classes`` or ``dropout`` is out of range.
    """

    def __init__(self, layer: nn.Module, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        hidden_size = getattr(layer, "hidden_size", None)
        if not isinstance(layer, nn.Module) or not isinstance(hidden_size, int):
            raise TypeError(
                f"layer must be a module with an integer hidden_size, such as LMU or LMUFFT, "
                f"got {type(layer).__name__}"
            )
        if not isinstance(num_classes, int) or isinstance(num_classes, bool):
            raise TypeError(f"num_classes must be an integer, got {num_classes!r}")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.layer = layer
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each class.

        Args:
            x: Sequences (batch, time, input_size).

        Returns:
            Logits (batch, num_classes).
        """
        _, state = self.layer(x)
        h_n = state if isinstance(state, Tensor) else state[0]
        return self.classifier(self.dropout(h_n))
