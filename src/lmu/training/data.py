"""Protocol of a data set, and checks of its tensors."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lmu.training.objective import Kind

Part = tuple[Tensor, ...]  # inputs, and last the target, of all samples


class Description(NamedTuple):
    """Facts of a data set.

    Attributes:
        kind: ``"classification"``, of int64 labels (samples,), or ``"regression"``.
        input_size: Features of an input at each step.
        outputs: Number of classes, or of numbers to predict.
        names: Names of the classes or of the numbers, for pictures; their indices if empty.
        unit: Name of the samples in texts, such as ``"digits"``.
    """

    kind: Kind
    input_size: int
    outputs: int
    names: Sequence[str] = ()
    unit: str = "samples"


class DataSet(Protocol):
    """A data set to train on. Parts are read when they are requested."""

    @property
    def description(self) -> Description:
        """Facts of the data set."""
        ...

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of samples for training and validation; known once it is prepared."""
        ...

    def prepare(self) -> None:
        """Find or download the data, and check them; called once per machine."""

    def fit_parts(self) -> tuple[Part, Part]:
        """Return the training and validation part; the latter may be empty."""
        ...

    def test_part(self) -> Part:
        """Return the test part; called only after training."""
        ...


def check_finite(name: str, x: Tensor) -> None:
    """Refuse samples that hold NaN or infinity: one of them makes all weights NaN.

    Raises:
        ValueError: There are such samples; the message names the first.
    """
    if not x.is_floating_point() or bool(x.sum().isfinite()):  # one pass in the usual case
        return
    wrong = x.isfinite().logical_not().reshape(len(x), -1).any(1).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(x)} samples of the {name} part hold NaN or infinity, the first "
            f"of them sample {wrong[0]}: drop or repair them"
        )


def check_part(name: str, part: Part, data: Description) -> None:
    """Refuse a part that does not fit the description of its data set.

    Raises:
        TypeError: Labels are no int64, or numbers to predict are not floating.
        ValueError: The tensors are not of one number of samples, a label is out of range, or a
            value is not finite.
    """
    *inputs, target = part
    if not inputs or len({len(values) for values in part}) > 1:
        raise ValueError(
            f"the {name} part must hold inputs and a target of one number of samples, got "
            f"{[tuple(values.shape) for values in part]}"
        )
    for values in part:
        check_finite(name, values)
    if data.kind == "regression" and not target.is_floating_point():
        raise TypeError(f"the {name} part must hold floating targets, got {target.dtype}")
    if data.kind == "classification" and target.dtype != torch.int64:
        raise TypeError(f"the {name} part must hold labels of int64, got {target.dtype}")
    if data.kind == "classification" and len(target):
        least, most = int(target.min()), int(target.max())
        if least < 0 or most >= data.outputs:
            raise ValueError(
                f"the {name} part must hold labels from 0 to {data.outputs - 1}, got {least} to "
                f"{most}"
            )
