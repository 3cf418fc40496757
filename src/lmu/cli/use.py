"""``lmu eval`` and ``lmu predict``: use a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from lmu.cli._errors import clear_errors, training_errors
from lmu.cli._shared import (
    AcceleratorOption,
    CheckpointArgument,
    DataOption,
    console,
    percent,
)


def evaluate_command(
    context: typer.Context,
    checkpoint: CheckpointArgument,
    data: DataOption = None,
    accelerator: AcceleratorOption = None,
) -> None:
    """Test a checkpoint again: the accuracy is that of its run, to the last digit."""
    with training_errors(context):
        from lmu.tasks.psmnist.run import evaluate

        loaded, metrics = evaluate(
            checkpoint, data=data, accelerator=accelerator, devices="1", num_nodes=1
        )
        assert metrics.confusion is not None
        assert metrics.accuracy is not None
        right, total = int(metrics.confusion.trace()), int(metrics.confusion.sum())
        console.print(f"checkpoint     {loaded.path}", highlight=False, soft_wrap=True)
        console.print(f"test accuracy  {percent(metrics.accuracy)} ({right} of {total})")
        console.print(f"test loss      {metrics.loss:.4f}")


def predict(
    context: typer.Context,
    checkpoint: CheckpointArgument,
    count: Annotated[int, typer.Option(help="How many test digits.")] = 5,
    seed: Annotated[int, typer.Option(help="Which ones: a seed for the choice.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Write a picture (PNG) instead of showing them here.")
    ] = None,
    data: DataOption = None,
) -> None:
    """Show test digits and what a checkpoint takes them for."""
    if output is not None and output.suffix.lower() != ".png":
        message = f"the picture is a PNG: its name must end in .png, got {output}"
        raise typer.BadParameter(message, param_hint="--output")
    with clear_errors(context):
        from lmu.tasks.psmnist.digits import (
            MOST_DRAWN,
            draw_predictions,
            predict_digits,
            render_digit,
        )

        if output is not None and count > MOST_DRAWN:
            message = f"must be at most {MOST_DRAWN} in a picture, got {count}"
            raise typer.BadParameter(message, param_hint="--count")
        predictions = predict_digits(checkpoint, count=count, seed=seed, data=data)
        if output is not None:
            try:
                draw_predictions(output, predictions)
            except OSError as error:
                message = f"{output} cannot be written: {error.strerror}"
                raise typer.BadParameter(message, param_hint="--output") from error
            console.print(f"wrote {output}", highlight=False, soft_wrap=True)
            return
        colors = console.color_system is not None and not console.no_color
        for number, prediction in enumerate(predictions):
            if number:
                console.print()
            console.print(render_digit(prediction.image, colors=colors), no_wrap=True)
            verdict = "[green]right" if prediction.right else f"[red]it is {prediction.label}"
            console.print(
                f"test digit {prediction.index}: [bold]{prediction.answer}[/bold] "
                f"({prediction.probability:.1%}), {verdict}",
                highlight=False,
            )
