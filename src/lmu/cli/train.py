"""``lmu train``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lmu.cli._app import Command, new_app
from lmu.cli._errors import refuse_unused, training_errors
from lmu.cli._options import of_settings, plain
from lmu.cli._shared import console, flag, on_command_line, percent, say
from lmu.tasks.psmnist.config import UNUSED, PsMNISTConfig
from lmu.training.settings import settings_of

app = new_app(help="Train a model on a task.")

# Settings that may differ when a run is resumed or evaluated, such as its device.
_PLACE = {name for name, known in settings_of(PsMNISTConfig).items() if known.may_change}


@app.command(cls=Command)
@of_settings(PsMNISTConfig)
def psmnist(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="Where the run's folder is made.")] = Path(
        "runs/psmnist"
    ),
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue an interrupted run: its folder, or a checkpoint in it."),
    ] = None,
    **settings: Any,
) -> None:
    """Train on permuted sequential MNIST and test the model that validates best."""
    settings = plain(settings)
    if resume is None:
        refuse_unused(context, UNUSED[settings["model"]], f"--model {settings['model']}")
    with training_errors(context):
        from lmu.tasks.psmnist.run import resume_config, train

        checkpoint = None
        if resume is None:
            config = PsMNISTConfig.from_options(settings)
        else:
            changed = on_command_line(context) - {"resume"}
            if changed - _PLACE:
                names = ", ".join(sorted(flag(name) for name in changed - _PLACE))
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
    console.print("Pictures:", highlight=False)
    for picture in sorted(folder.glob("*.png")):
        console.print(f"  {picture}", highlight=False, soft_wrap=True)
    console.print(f"Test again: lmu eval {folder}", highlight=False, soft_wrap=True)
