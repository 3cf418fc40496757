"""Compiled packages (``.pt2``) of trained layers, by ``torch.export`` and AOTInductor.

A package holds machine code for the processor or GPU that it was made on; it runs from Python, and
from C++ without Python::

    run = torch._inductor.aoti_load_package("model.pt2")
    y, h, m = run(x=x_t, h=h, m=m)  # form="step"
    y, h, m = run(x=x)  # form="sequence"
"""

import shutil
from pathlib import Path

from torch import nn
from torch.export import ExportedProgram

from lmu._files import whole_file
from lmu.interop._layers import describe
from lmu.interop._loops import while_loop
from lmu.interop._trace import quiet, trace


def export_aoti(model: nn.Module, path: str | Path, *, form: str = "step") -> Path:
    """Compile a trained layer or classifier into a package, for any batch size and any length.

    Inputs, outputs, their shapes and the arithmetic are those of
    :func:`lmu.interop.onnx.export_onnx`, except for the loop: each of its steps copies the outputs
    so far, unless only the last one is needed. The time for this grows with the square of the
    number of chunks (LMUFFT) or steps (LMU). The package's metadata, ``run.get_metadata()``, holds
    the sizes.

    Args:
        model: :class:`lmu.LMU`, :class:`lmu.LMUFFT`, or a
            :class:`lmu.models.SequenceClassifier` over one of them, on the device that the package
            is to run on. Dropout is left out.
        path: The file, whose name must end in ``.pt2``; it is written atomically.
        form: ``"step"`` or ``"sequence"``.

    Returns:
        The path.

    Raises:
        RuntimeError: There is no C++ compiler, or it fails.
        TypeError: The model is of another kind.
        ValueError: The form or the ending of the path is wrong, or the layer's hidden cell cannot
            be exported.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"the name of a package must end in .pt2, got {path}")
    if not has_compiler():
        raise RuntimeError(
            "no C++ compiler was found, which a package needs: install g++ or clang++, or name one "
            "by the environment variable CXX"
        )
    from torch._inductor import aoti_compile_and_package

    with quiet(), whole_file(path) as temporary:
        program = export_program(model, form=form)
        settings = {"aot_inductor.metadata": describe(model, form)}
        aoti_compile_and_package(program, package_path=str(temporary), inductor_configs=settings)
    return path


def export_program(model: nn.Module, *, form: str = "step") -> ExportedProgram:
    """Export the graph that :func:`export_aoti` compiles, for other backends.

    Batch size and length are variable. ``torch.export.save`` writes it to a file;
    ``program.module()`` runs it.

    Args:
        model: As for :func:`export_aoti`.
        form: ``"step"`` or ``"sequence"``.

    Raises:
        TypeError: The model is of another kind.
        ValueError: The form is unknown, or the layer's hidden cell cannot be exported.
    """
    with quiet():
        return trace(model, form, while_loop)


def has_compiler() -> bool:
    """True if there is a C++ compiler, which packages need."""
    from torch._inductor import config

    names = config.cpp.cxx if isinstance(config.cpp.cxx, tuple) else (config.cpp.cxx,)
    return any(name and shutil.which(name) for name in names)
