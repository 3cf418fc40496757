"""Permuted sequential MNIST: a digit read pixel by pixel, in a fixed random order."""

from dataclasses import dataclass, field
from os.path import isfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmu._archive import read_archive
from lmu._arguments import checked, flag, optional, shown, tensor, whole
from lmu._arguments import path as path_rule
from lmu.tasks import mnist
from lmu.training.data import Description

PIXELS = 784
CLASSES = 10
VALIDATION = 5_000


def default_permutation() -> Tensor:
    """Return the order of the pixels (784,) of published results, which starts 60, 361, 167."""
    return torch.randperm(PIXELS, generator=torch.Generator().manual_seed(0))


@checked(path=path_rule)
def load_permutation(path: str | Path) -> Tensor:
    """Read an order of the pixels from a file.

    Args:
        path: Text with 784 integers, a NumPy array (``.npy``) or a tensor (``.pt``).

    Returns:
        The permutation (784,) of int64.

    Raises:
        ValueError: The file cannot be read or does not hold each of 0 to 783 once.
    """
    path = Path(path).expanduser()
    try:
        if not isfile(path) or path.stat().st_size > 2**20:  # devices have no end
            raise ValueError("it is too large" if isfile(path) else "there is no such file")
        values = torch.as_tensor(_read_numbers(path))
    except Exception as error:  # NumPy's reader may raise anything
        raise ValueError(f"the permutation {path} cannot be read: {error}") from error
    return check_permutation(values, str(path))


def check_permutation(permutation: Any, name: str = "permutation") -> Tensor:
    """Check that a tensor holds each of 0 to 783 once.

    Args:
        permutation: The tensor to check.
        name: Its name in messages.

    Returns:
        The permutation (784,) of int64.

    Raises:
        ValueError: It does not; the message says what it holds.
    """
    if not isinstance(permutation, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(permutation).__name__}")
    if permutation.layout is not torch.strided or permutation.is_nested or permutation.is_meta:
        kind = "nested" if permutation.is_nested else permutation.layout
        kind = "without content (meta)" if permutation.is_meta else kind
        raise ValueError(f"{name} must be a dense tensor, got one that is {kind}")
    no_integers = permutation.is_floating_point() or permutation.is_complex()
    if no_integers or permutation.is_quantized or permutation.dtype is torch.bool:
        raise ValueError(f"{name} must hold integers, got {permutation.dtype}")
    if permutation.shape != (PIXELS,):
        raise ValueError(f"{name} must hold {PIXELS} integers, got {tuple(permutation.shape)}")
    permutation = permutation.long()
    if not torch.equal(permutation.sort().values, torch.arange(PIXELS)):
        raise ValueError(f"{name} must hold each of 0 to {PIXELS - 1} exactly once")
    return permutation


def _read_numbers(path: Path) -> Any:
    if path.suffix == ".npy":
        import numpy as np

        # Mapped, so that a header cannot ask for more memory than the file has.
        return torch.from_numpy(np.array(np.load(path, mmap_mode="r", allow_pickle=False)))
    if path.suffix == ".pt":
        return read_archive(path)[0]
    words = path.read_text().replace(",", " ").split()
    return torch.tensor([int(word) for word in words], dtype=torch.int64)


@checked(full_train=flag)
def split_indices(full_train: bool = False) -> tuple[Tensor, Tensor]:
    """Split the 60,000 training digits into those for training and for validation.

    The split is random but the same in every run, whatever its seed.

    Args:
        full_train: Train on all digits, without validation.

    Returns:
        Indices for training (55,000 or 60,000) and for validation (5,000 or 0).
    """
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))
    kept = 0 if full_train else VALIDATION
    return order[kept:], order[:kept]


@dataclass(frozen=True)
class PsMNIST:
    """Data set of pixels (digits, 784, 1) in [0, 1] and labels (digits,).

    Args:
        permutation: Order of the pixels (784,).
        data: Folder of the MNIST files; searched by :func:`lmu.tasks.mnist.locate` if None.
        full_train: Train on all 60,000 digits, without validation.
        limit: Most digits of each part.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The permutation is none, or ``limit`` is below 1.
    """

    permutation: Tensor = field(default_factory=default_permutation)
    data: str | None = None
    full_train: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        check_permutation(self.permutation)
        optional(path_rule)("data", self.data)
        flag("full_train", self.full_train)
        optional(whole(1))("limit", self.limit)

    @property
    def description(self) -> Description:
        """Facts of the data set: ten classes, one pixel a step."""
        return Description("classification", 1, CLASSES, tuple("0123456789"), "digits")

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of digits for training and validation."""
        kept = 0 if self.full_train else VALIDATION
        least = self.limit or 60_000
        return min(60_000 - kept, least), min(kept, least)

    def prepare(self) -> None:
        """Find or download the four files, and verify them.

        Raises:
            DataError: A file is missing or damaged.
        """
        mnist.verify(mnist.locate(self.data))

    def fit_parts(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return the training and validation part; the latter is empty for ``full_train``."""
        images, labels = mnist.load(mnist.locate(self.data), "train")
        train, validation = (i[: self.limit] for i in split_indices(self.full_train))
        return (
            (self.sequences(images[train]), labels[train]),
            (self.sequences(images[validation]), labels[validation]),
        )

    def test_part(self) -> tuple[Tensor, Tensor]:
        """Return the 10,000 test digits."""
        images, labels = mnist.load(mnist.locate(self.data), "t10k")
        return self.sequences(images[: self.limit]), labels[: self.limit]

    @checked(images=tensor("digits", "rows", "columns"))
    def sequences(self, images: Tensor) -> Tensor:
        """Turn images (digits, 28, 28) of uint8 into pixel sequences (digits, 784, 1)."""
        if images.shape[1:] != (28, 28) or images.is_complex():
            raise ValueError(f"images must be (digits, 28, 28) and real, got {shown(images)}")
        return images.flatten(1)[:, self.permutation].unsqueeze(2).float().div_(255)

    @checked(sequences=tensor("digits", "pixels", "features"))
    def images(self, sequences: Tensor) -> Tensor:
        """Turn pixel sequences (digits, 784, 1) back into images (digits, 28, 28)."""
        if sequences.shape[1:] != (PIXELS, 1):
            raise ValueError(
                f"sequences must be (digits, {PIXELS}, 1), got {tuple(sequences.shape)}"
            )
        return sequences.squeeze(2)[:, self.permutation.argsort()].unflatten(1, (28, 28))
