"""Arguments of the kernels for tests: whole numbers, and addresses of tensors."""

import ctypes

from torch import Tensor


def structure(*values: int | Tensor | ctypes.Structure) -> ctypes.Structure:
    """A C struct of these values, in their order; it keeps the tensors."""
    kinds = {int: ctypes.c_int64, Tensor: ctypes.c_void_p}
    fields = [(f"_{i}", kinds.get(type(v), type(v))) for i, v in enumerate(values)]
    kind = type("Arguments", (ctypes.Structure,), {"_fields_": fields})
    built = kind(*(v.data_ptr() if isinstance(v, Tensor) else v for v in values))
    built.kept = values
    return built
