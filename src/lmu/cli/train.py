"""``lmu train``."""

from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lmu.cli._app import Command, new_app
from lmu.cli._errors import refuse_unused, training_errors
from lmu.cli._shared import DataOption, console, flag, given, percent, say

app = new_app(help="Train a model on a task.")

# Where a run takes place: the settings that may differ when it is resumed or evaluated.
_PLACE = ("data", "accelerator", "devices", "num_nodes", "strategy")


class Model(str, Enum):
    """Choices of ``--model``."""

    LMUFFT = "lmufft"
    LMU = "lmu"
    DEEP = "deep"
    LSTM = "lstm"
    GRU = "gru"


class Schedule(str, Enum):
    """Choices of ``--schedule``."""

    COSINE = "cosine"
    CONSTANT = "constant"


# Options without an effect on a model; refused where they are given.
_NO_STACK = ("layers", "hidden_noise")
_NO_MEMORY = ("memory_size", "theta", "input_dropout")
UNUSED = {
    Model.LMUFFT: _NO_STACK,
    Model.LMU: _NO_STACK,
    Model.DEEP: (),
    Model.LSTM: _NO_MEMORY + _NO_STACK,
    Model.GRU: _NO_MEMORY + _NO_STACK,
}


@app.command(cls=Command)
def psmnist(
    context: typer.Context,
    model: Annotated[
        Model,
        typer.Option(help="lmufft, lmu: published. deep: ours. lstm, gru: for comparison."),
    ] = Model.LMUFFT,
    hidden_size: Annotated[
        int | None,
        typer.Option(help="Hidden units. Default: 346 (lmufft), 212 (lmu), 512 (deep), ..."),
    ] = None,
    memory_size: Annotated[
        int | None,
        typer.Option(help="Order of the memory. Default: 468 (lmufft), 256 (lmu), 784 (deep)."),
    ] = None,
    layers: Annotated[int, typer.Option(help="Hidden layers of deep.")] = 2,
    theta: Annotated[float, typer.Option(help="Length of the window in pixels.")] = 784.0,
    dropout: Annotated[
        float | None,
        typer.Option(help="Before the classifier. Default: 0.5 (lmufft, deep), 0 (the others)."),
    ] = None,
    input_dropout: Annotated[float, typer.Option(help="Of pixels.")] = 0.0,
    input_noise: Annotated[
        float, typer.Option(help="Added to pixels in training: its standard deviation.")
    ] = 0.0,
    hidden_noise: Annotated[
        float, typer.Option(help="Likewise in deep, after each normalization.")
    ] = 0.0,
    epochs: Annotated[int, typer.Option(help="Passes over the training digits.")] = 15,
    max_seconds: Annotated[
        float | None, typer.Option(help="Stop training after so long, whatever --epochs says.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Digits per step, of all processes together.")
    ] = 100,
    learning_rate: Annotated[
        float | None,
        typer.Option("--lr", help="Of Adam. Default: 0.008 (lmufft), 0.002 (deep), 0.001."),
    ] = None,
    gradient_clip: Annotated[
        float | None, typer.Option(help="Largest norm of the gradient. Default: any.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Of matrices, as in AdamW.")] = 0.0,
    label_smoothing: Annotated[float, typer.Option(help="Of the training loss.")] = 0.0,
    schedule: Annotated[
        Schedule, typer.Option(help="Course of the learning rate.")
    ] = Schedule.COSINE,
    patience: Annotated[
        int, typer.Option(help="Stop after so many epochs without improvement; 0: never.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    full_train: Annotated[
        bool,
        typer.Option(
            "--full-train",
            help="Train on all 60,000 digits, as the papers do, and test the last epoch's weights.",
        ),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(help="Use at most so many digits of each part, for a quick trial.")
    ] = None,
    data: DataOption = None,
    permutation: Annotated[
        str | None, typer.Option(help="File with the order of the 784 pixels: text, .npy or .pt.")
    ] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu, ...")] = "auto",
    devices: Annotated[str, typer.Option(help="How many, or which (0,1), per machine.")] = "auto",
    num_nodes: Annotated[int, typer.Option(help="Number of machines.")] = 1,
    strategy: Annotated[str, typer.Option(help="How processes work together.")] = "auto",
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, ...")] = "32-true",
    output: Annotated[Path, typer.Option(help="Where the run's folder is made.")] = Path(
        "runs/psmnist"
    ),
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue an interrupted run: its folder, or a checkpoint in it."),
    ] = None,
) -> None:
    """Train on permuted sequential MNIST and test the model that validates best."""
    if resume is None:
        refuse_unused(context, UNUSED[model], f"--model {model.value}")
    with training_errors(context):
        from lmu.tasks.psmnist import PRESETS
        from lmu.training.config import RunConfig
        from lmu.training.run import resume_config, train

        settings = {field.name: context.params[field.name] for field in fields(RunConfig)}
        settings |= {"model": model.value, "schedule": schedule.value}
        if learning_rate is None:
            settings["learning_rate"] = PRESETS[model.value].learning_rate
        checkpoint = None
        if resume is None:
            config = RunConfig(**settings)
        else:
            changed = given(context) - {"resume"}
            if changed - set(_PLACE):
                names = ", ".join(sorted(flag(name) for name in changed - set(_PLACE)))
                raise typer.BadParameter(
                    f"a resumed run keeps its settings: drop {names}", param_hint="--resume"
                )
            places = {name: settings[name] for name in changed}
            checkpoint, config = resume_config(resume, say, **places)
        result = train(config, output=output, resume=checkpoint, console=console)
        if result.metrics:
            _show_result(result.folder, result.metrics)


def _show_result(folder: Path, metrics: dict[str, Any]) -> None:
    chosen = metrics["chosen"]
    table = Table(show_header=False, title="permuted sequential MNIST")
    accuracy = f"[bold]{percent(metrics['test_accuracy'])}[/bold]"
    table.add_row("test accuracy", f"{accuracy} of {metrics['test_digits']} digits")
    if "val_accuracy" in metrics:
        table.add_row("validation accuracy", percent(metrics["val_accuracy"]))
    table.add_row("tested weights", f"{chosen['checkpoint']}, of epoch {chosen['epoch']}")
    table.add_row("parameters", f"{metrics['parameters']:,}")
    epochs = metrics["seconds_per_epoch"]  # of all, those before an interruption too
    mean = sum(epochs) / len(epochs)
    table.add_row("time of training", f"{sum(epochs):.1f} s, {mean:.2f} s per epoch")
    console.print(table)
    from lmu.training.report import PICTURES

    console.print("Pictures:", highlight=False)
    for name in (name for name in PICTURES if (folder / name).exists()):
        console.print(f"  {folder / name}", highlight=False, soft_wrap=True)
    console.print(f"Test again: lmu eval {folder}", highlight=False, soft_wrap=True)
