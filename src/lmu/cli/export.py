"""``lmu export``: checkpoints for use without this package."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmu._files import DiskFullError, WriteError
from lmu.cli._errors import clear_errors, stop
from lmu.cli._shared import CheckpointArgument, console

if TYPE_CHECKING:
    from lmu.models import SequenceClassifier


class Format(str, Enum):
    """Choices of ``--format``."""

    ONNX = "onnx"
    AOTI = "aoti"


_SUFFIXES = {Format.ONNX: ".onnx", Format.AOTI: ".pt2"}


def export_command(
    context: typer.Context,
    checkpoint: CheckpointArgument,
    format: Annotated[
        Format,
        typer.Option(help="onnx: for any runtime of ONNX. aoti: machine code for this processor."),
    ] = Format.ONNX,
    step: Annotated[
        bool,
        typer.Option(
            "--step/--sequence",
            help="A step of a stream, whose state goes in and out; or a whole sequence.",
        ),
    ] = True,
    int8: Annotated[
        bool, typer.Option("--int8", help="Round the read-out of an ONNX step to 8 bits.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="The file. Default: beside the checkpoint.")
    ] = None,
) -> None:
    """Write a trained model as ONNX or as a compiled package; any batch size, any length."""
    if int8 and not (step and format is Format.ONNX):
        message = "only a step in ONNX can be made int8: drop --sequence, and --format aoti"
        raise typer.BadParameter(message, param_hint="--int8")
    suffix = _SUFFIXES[format]
    if output is not None and output.suffix != suffix:
        message = f"the name of the file must end in {suffix}, got {output}"
        raise typer.BadParameter(message, param_hint="--output")
    form = "step" if step else "sequence"
    with clear_errors(context):
        path, name, model = _load(checkpoint)
        if output is None:
            output = path.with_name(f"{name}-{form}{'-int8' if int8 else ''}{suffix}")
        with _export_errors():
            _write(model, output, format, form, int8)
        _show(model, output, form)


def _load(checkpoint: Path) -> tuple[Path, str, "SequenceClassifier"]:
    """Load the checkpoint: its path, the model's name, and the trained model."""
    from lmu.tasks.psmnist.recipe import load_classifier

    loaded = load_classifier(checkpoint)
    config = loaded.recipe.config
    name = config.model
    if config.model_arguments()["memory_size"] is None:
        message = (
            f"{loaded.path} is of PyTorch's nn.{name.upper()}, which has no memory to step: "
            "export it with torch.onnx.export"
        )
        raise typer.BadParameter(message, param_hint="checkpoint")
    return loaded.path, name, loaded.model()


def _write(
    model: "SequenceClassifier", output: Path, format: Format, form: str, int8: bool
) -> None:
    if format is Format.AOTI:
        from lmu.interop.aoti import export_aoti

        with console.status("compiling"):
            export_aoti(model, output, form=form)
        return
    from lmu.interop.onnx import export_onnx, quantize_onnx

    if not int8:
        export_onnx(model, output, form=form)
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        exact = export_onnx(model, Path(folder) / "exact.onnx", form=form)
        try:
            quantize_onnx(exact, output)
        except ValueError as error:
            message = "the model is too small: none of its matrices repays int8"
            raise typer.BadParameter(message, param_hint="--int8") from error


@contextmanager
def _export_errors() -> Iterator[None]:
    try:
        yield
    except DiskFullError:
        raise
    except WriteError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    except (ImportError, RuntimeError) as error:  # packages, or the compiler, are missing
        stop(error)


def _show(model: "SequenceClassifier", output: Path, form: str) -> None:
    """Print the file that was written, and its inputs and outputs."""
    from lmu.interop._trace import signature

    size = output.stat().st_size / 1e6
    console.print(f"wrote {output} ({size:.2f} MB)", highlight=False, soft_wrap=True)
    for title, shapes in zip(("inputs ", "outputs"), signature(model, form), strict=True):
        text = ", ".join(f"{name} ({', '.join(shape)})" for name, shape in shapes.items())
        console.print(f"{title}  {text}", highlight=False, soft_wrap=True)
