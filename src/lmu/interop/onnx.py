"""Export of trained layers to ONNX: a step of a stream, or a whole sequence of any length.

A file runs wherever ONNX does, without PyTorch::

    session = onnxruntime.InferenceSession("model.onnx")
    y, h, m = session.run(None, {"x": x_t, "h": h, "m": m})  # form="step"
    y, h, m = session.run(None, {"x": x})  # form="sequence"

A sequence starts from an empty memory; a step can continue from its last ``h_n`` and ``m_n``. See
:func:`export_onnx` for the shapes.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmu._extras import require
from lmu._files import whole_file
from lmu.interop._graph import OUTPUTS
from lmu.interop._layers import describe
from lmu.interop._loops import scan_loop
from lmu.interop._trace import quiet, trace

_LEAST = 1024  # numbers: quantizing a smaller matrix adds more operations than it saves bytes


def export_onnx(model: nn.Module, path: str | Path, *, form: str = "step") -> Path:
    r"""Write a trained layer or classifier as ONNX, for any batch size and any length.

    ``form="step"`` is one time step, ``(x, h, m) -> (y, h_n, m_n)``; start from zeros. If the
    hidden state is not fed back, as in LMUFFT, ``h`` has no effect.

    ``form="sequence"`` is a whole sequence from an empty memory, ``x -> (y, h_n, m_n)``. LMUFFT is
    evaluated in chunks of L steps by matrix products, exactly and without FFT: inside a chunk with
    the Toeplitz operator of the impulse response, between chunks by
    :math:`m_{j+1} = \bar A^L m_j + \sum_k H_k u_{jL+L-1-k}`, an ONNX ``Scan``. LMU is a ``Scan``
    over all steps. Learned dynamics have their present values.

    Shapes:
        - x (batch, input_size), or (batch, time, input_size) for a sequence
        - h, h_n (batch, hidden_size) and m, m_n (batch, memory_channels * memory_size)
        - y like h, or (batch, time, hidden_size) for a sequence with all outputs; of a classifier
          the logits (batch, num_classes)

    All are of the layer's dtype but at least float32. The file's metadata holds the sizes under
    keys that start with ``lmu.``

    Args:
        model: :class:`lmu.LMU`, :class:`lmu.LMUFFT`, or a
            :class:`lmu.models.SequenceClassifier` over one of them. Dropout is left out.
        path: The file, which is written atomically.
        form: ``"step"`` or ``"sequence"``.

    Returns:
        The path.

    Raises:
        ImportError: The packages of the extra ``onnx`` are missing, or PyTorch is too old to
            export loops, which a sequence needs.
        TypeError: The model is of another kind.
        ValueError: The form is unknown, or the layer's hidden cell cannot be exported.

    Source: Voelker et al., NeurIPS 2019, equations 4, 6, 7; Chilkuri & Eliasmith, ICML 2021,
    equations 18 to 20 and 22.
    """
    require("onnx", "onnxscript", extra="onnx")
    path = Path(path)
    if form == "sequence":
        _check_loops()
    with quiet():
        program = trace(model, form, scan_loop, device="cpu")
        converted = torch.onnx.export(
            program, dynamo=True, verbose=False, external_data=False, output_names=list(OUTPUTS)
        )
    assert converted is not None
    proto = converted.model_proto
    _name_axes(proto.graph)
    _strip(proto.graph)
    _label(proto, describe(model, form))
    _write(proto, path)
    return path


def quantize_onnx(source: str | Path, path: str | Path, *, memory: bool = False) -> Path:
    """Make the read-out of an exported step int8, a quarter of its bytes.

    Of the matrices ``W_x, W_h, W_m`` and a classifier's those with at least 1,024 numbers become
    int8 with a scale for each output; their inputs are rounded to 8 bits at run time, by one scale
    for the whole batch. They use 7 bits, so that products do not overflow on processors without
    VNNI. The memory itself is not quantized.

    Args:
        source: A file of :func:`export_onnx` with ``form="step"``.
        path: The file to write.
        memory: Quantize the memory's matrix ``Ad - I`` too. This ruins long windows, as rounding
            errors add up over theta steps.

    Returns:
        The path.

    Raises:
        ImportError: The packages of the extra ``onnx`` are missing.
        OSError: The source cannot be read.
        ValueError: The source is not such a file, or has no matrix large enough to quantize.
    """
    require("onnx", "onnxruntime", extra="onnx")
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    proto = _read_step(Path(source))
    if any(w.data_type != TensorProto.FLOAT for w in proto.graph.initializer if w.name == "E"):
        raise ValueError(f"{source} is not in float32: only such a model can be quantized")
    nodes = _products(proto.graph, memory)
    if not nodes:
        raise ValueError(f"{source} has no matrix of {_LEAST} numbers or more: nothing to quantize")
    facts = {p.key: p.value for p in proto.metadata_props}
    with tempfile.TemporaryDirectory() as folder, quiet():
        output = Path(folder) / "int8.onnx"
        quantize_dynamic(
            proto, output, nodes_to_quantize=nodes, weight_type=QuantType.QInt8,
            per_channel=True, reduce_range=True,
        )  # fmt: skip
        quantized = _load(output)
    _label(quantized, facts | {"lmu.int8": "W E" if memory else "W"})
    _write(quantized, Path(path))
    return Path(path)


def _check_loops() -> None:
    try:
        from torch.onnx._internal.exporter._torchlib.ops import hop
    except ImportError:
        hop = None
    if not hasattr(hop, "higher_order_scan"):
        raise ImportError(
            f"PyTorch {torch.__version__} cannot export a loop over time to ONNX: upgrade it "
            "(pip install -U torch), or export form='step'"
        )


def _name_axes(graph: Any) -> None:
    """Name the variable axes, which the tracer numbers."""
    axes = [dim.dim_param for dim in graph.input[0].type.tensor_type.shape.dim]
    names = {axis: name for axis, name in zip(axes, ("batch", "time"), strict=False) if axis}
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = names.get(dim.dim_param, dim.dim_param)


def _strip(graph: Any) -> None:
    """Drop traces of the export: names of this machine's files, shapes between nodes."""
    for part in _graphs(graph):
        del part.value_info[:]
        del part.metadata_props[:]
        for item in (*part.node, *part.input, *part.output, *part.initializer):
            del item.metadata_props[:]


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _label(proto: Any, facts: dict[str, str]) -> None:
    proto.producer_name, proto.producer_version = facts["lmu.producer"].split()
    del proto.metadata_props[:]
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value)


def _write(proto: Any, path: Path) -> None:
    import onnx

    onnx.checker.check_model(proto, full_check=True)
    with whole_file(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())


def _load(path: Path) -> Any:
    import onnx

    return onnx.load(path, load_external_data=False)  # files of export_onnx have none


def _read_step(path: Path) -> Any:
    from google.protobuf.message import DecodeError

    wrong = f"{path} is not a file that export_onnx wrote with form='step'"
    try:
        proto = _load(path)
    except DecodeError as error:
        raise ValueError(wrong) from error
    facts = {p.key: p.value for p in proto.metadata_props}
    is_external = any(weight.external_data for weight in proto.graph.initializer)
    if facts.get("lmu.form") != "step" or "lmu.int8" in facts or is_external:
        raise ValueError(wrong)
    return proto


def _products(graph: Any, memory: bool) -> list[str]:
    """Return names of the products whose matrices are quantized."""
    matrices = {
        w.name
        for w in graph.initializer
        if (w.name.startswith("W_") or (memory and w.name == "E"))
        and len(w.dims) == 2
        and w.dims[0] * w.dims[1] >= _LEAST
    }
    return [
        node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in matrices
    ]
