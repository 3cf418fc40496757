"""GPU kernels in triton, the only package that imports it; imported where it is used."""

from importlib.util import find_spec

if find_spec("triton") is None:
    raise ImportError(
        "triton not installed, needed by the CUDA kernels but not by the layers: "
        "run pip install triton",
        name="triton",
    )

from lmu.ops.triton.block_states import advance, retreat

__all__ = ["advance", "retreat"]
