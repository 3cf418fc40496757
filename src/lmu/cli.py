"""The command line: ``lmu train``, ``lmu eval``, ``lmu predict``, ``lmu explain``."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import lmu

# Lightning and Matplotlib take seconds to import: the functions that need them do it.

app = typer.Typer(
    help="The Legendre Memory Unit for PyTorch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train a model on a task.", no_args_is_help=True)
app.add_typer(train_app, name="train")
console = Console()

# Where a run takes place: the settings that may differ when it is resumed or evaluated.
_PLACE = ("data", "accelerator", "devices", "num_nodes", "strategy")
# What Lightning interprets. When it refuses, any of them may be the reason.
_LIGHTNING = ("accelerator", "devices", "num_nodes", "strategy", "precision")
_FLAGS = {"learning_rate": "--lr"}


class Model(str, Enum):
    """Choices of ``--model``."""

    LMUFFT = "lmufft"
    LMU = "lmu"


class Schedule(str, Enum):
    """Choices of ``--schedule``."""

    COSINE = "cosine"
    CONSTANT = "constant"


DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Folder of the MNIST files, raw or gzipped. "
        "Default: the checkout, the cache, or a download.",
    ),
]
AcceleratorOption = Annotated[str | None, typer.Option(help="cpu, gpu, ... Default: auto.")]
CheckpointArgument = Annotated[Path, typer.Argument(help="A checkpoint, or the folder of a run.")]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """The Legendre Memory Unit for PyTorch."""
    if version:
        console.print(f"torch-lmu {lmu.__version__}", highlight=False)
        raise typer.Exit


@train_app.command()
def psmnist(
    context: typer.Context,
    model: Annotated[Model, typer.Option(help="Which published model.")] = Model.LMUFFT,
    hidden_size: Annotated[
        int | None, typer.Option(help="Hidden units. Default: 346 (lmufft), 212 (lmu).")
    ] = None,
    memory_size: Annotated[
        int | None, typer.Option(help="Order of the memory. Default: 468 (lmufft), 256 (lmu).")
    ] = None,
    theta: Annotated[float, typer.Option(help="Length of the window in pixels.")] = 784.0,
    dropout: Annotated[
        float | None, typer.Option(help="Before the classifier. Default: 0.5 (lmufft), 0 (lmu).")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training digits.")] = 15,
    batch_size: Annotated[int, typer.Option(help="Digits per step and process.")] = 100,
    learning_rate: Annotated[
        float | None,
        typer.Option("--lr", help="Of Adam. Default: 0.008 (lmufft), 0.001 (lmu)."),
    ] = None,
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
    with _clear_errors(context):
        from lmu.tasks.psmnist import PRESETS
        from lmu.training.config import RunConfig
        from lmu.training.run import resume_config, train

        given = {field.name: context.params[field.name] for field in fields(RunConfig)}
        given |= {"model": model.value, "schedule": schedule.value}
        if learning_rate is None:
            given["learning_rate"] = PRESETS[model.value].learning_rate
        checkpoint = None
        if resume is None:
            config = RunConfig(**given)
        else:
            changed = _set_on_command_line(context) - {"resume"}
            if changed - set(_PLACE):
                names = ", ".join(sorted(_flag(name) for name in changed - set(_PLACE)))
                raise typer.BadParameter(
                    f"a resumed run keeps its settings: drop {names}", param_hint="--resume"
                )
            checkpoint, config = resume_config(resume, **{name: given[name] for name in changed})
        start = time.perf_counter()
        result = train(config, output=output, resume=checkpoint, console=console)
        if result.metrics:
            _show_result(result.folder, result.metrics, time.perf_counter() - start)


@app.command("eval")
def evaluate_command(
    context: typer.Context,
    checkpoint: CheckpointArgument,
    data: DataOption = None,
    accelerator: AcceleratorOption = None,
) -> None:
    """Test a checkpoint again: the accuracy is that of its run, to the last digit."""
    with _clear_errors(context):
        from lmu.training.run import evaluate

        loaded, metrics = evaluate(
            checkpoint, data=data, accelerator=accelerator, devices="1", num_nodes=1
        )
        assert metrics.confusion is not None
        right, total = int(metrics.confusion.trace()), int(metrics.confusion.sum())
        console.print(f"checkpoint     {loaded.path}", highlight=False, soft_wrap=True)
        console.print(f"test accuracy  {_percent(metrics.accuracy)} ({right} of {total})")
        console.print(f"test loss      {metrics.loss:.4f}")


@app.command()
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
    with _clear_errors(context):
        from lmu.training.predict import draw_predictions, predict_digits, render_digit

        predictions = predict_digits(checkpoint, count=count, seed=seed, data=data)
        if output is not None:
            try:
                draw_predictions(output, predictions)
            except OSError as error:
                message = f"{output} cannot be written: {error.strerror}"
                raise typer.BadParameter(message, param_hint="--output") from error
            console.print(f"wrote {output}", highlight=False, soft_wrap=True)
            return
        for prediction in predictions:
            console.print(render_digit(prediction.image))
            verdict = "[green]right" if prediction.right else f"[red]it is {prediction.label}"
            console.print(
                f"test digit {prediction.index}: [bold]{prediction.answer}[/bold] "
                f"({prediction.probability:.1%}), {verdict}",
                highlight=False,
            )


@app.command()
def explain(
    length: Annotated[int, typer.Argument(help="Time steps of a sequence.")],
    order: Annotated[int, typer.Argument(help="Order of the memory.")],
    hidden_size: Annotated[int, typer.Option(help="Hidden units that read the memory.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    channels: Annotated[int, typer.Option(help="Memories.")] = 1,
    state: Annotated[bool, typer.Option(help="Start from a given state.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Say how a memory of this size is evaluated, why, and what it costs."""
    from lmu.ops import Work, choose, choose_lmu, choose_readout

    for name, value in (("length", length), ("order", order), ("--hidden-size", hidden_size),
                        ("--batch-size", batch_size), ("--channels", channels)):  # fmt: skip
        if value < 1:
            raise typer.BadParameter(f"must be at least 1, got {value}", param_hint=name)
    work = Work(length, order, hidden_size, batch_size, channels, device)
    choices = {
        "LMUFFT, all outputs": choose_readout(work, initial_state=state),
        "LMUFFT, last output": choose(work, all_states=False, initial_state=state),
        "LMU": choose_lmu(work),
        "LMU without feedback": choose_lmu(work, feedback=False),
    }
    table = Table("work", "method", "why", "GFLOP", "MiB")
    for what, choice in choices.items():
        assert choice.cost is not None
        figures = (f"{choice.cost.flops / 1e9:.3g}", f"{choice.cost.bytes / 2**20:.3g}")
        table.add_row(what, choice.method, choice.reason, *figures)
    console.print(table)


def _show_result(folder: Path, metrics: dict[str, Any], seconds: float) -> None:
    chosen = metrics["chosen"]
    table = Table(show_header=False, title="permuted sequential MNIST")
    accuracy = f"[bold]{_percent(metrics['test_accuracy'])}[/bold]"
    table.add_row("test accuracy", f"{accuracy} of {metrics['test_digits']} digits")
    if "val_accuracy" in metrics:
        table.add_row("validation accuracy", _percent(metrics["val_accuracy"]))
    table.add_row("tested weights", f"{chosen['checkpoint']}, of epoch {chosen['epoch']}")
    table.add_row("parameters", f"{metrics['parameters']:,}")
    epochs = metrics["seconds_per_epoch"]
    table.add_row("time", f"{seconds:.1f} s, {sum(epochs) / len(epochs):.2f} s per epoch")
    console.print(table)
    from lmu.training.report import PICTURES

    console.print("Pictures:", highlight=False)
    for name in PICTURES:
        console.print(f"  {folder / name}", highlight=False, soft_wrap=True)
    console.print(f"Test again: lmu eval {folder}", highlight=False, soft_wrap=True)


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.2f} %"


def _flag(setting: str) -> str:
    return _FLAGS.get(setting, "--" + setting.replace("_", "-"))


def _set_on_command_line(context: typer.Context) -> set[str]:
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _given_lightning(context: typer.Context) -> str | None:
    given = _set_on_command_line(context)
    return " / ".join(_flag(name) for name in _LIGHTNING if name in given) or None


def _given_checkpoint(context: typer.Context) -> str | None:
    if "checkpoint" in context.params:
        return "checkpoint"
    return "--resume" if context.params["resume"] else None


@contextmanager
def _clear_errors(context: typer.Context) -> Iterator[None]:
    """Say what is wrong with the input, in words and with exit status 2, without a traceback."""
    from lmu.tasks.mnist import DataError
    from lmu.training.checkpoint import CheckpointError
    from lmu.training.config import ConfigError
    from lmu.training.module import TrainingDivergedError
    from lmu.training.run import RunInterruptedError

    try:
        yield
    except ConfigError as error:
        hint = _given_lightning(context) if error.setting is None else _flag(error.setting)
        raise typer.BadParameter(str(error), param_hint=hint) from error
    except DataError as error:
        raise typer.BadParameter(str(error), param_hint="--data") from error
    except CheckpointError as error:
        raise typer.BadParameter(str(error), param_hint=_given_checkpoint(context)) from error
    except TrainingDivergedError as error:
        console.print(f"Stopped: {error}", style="red", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except RunInterruptedError as error:
        console.print("Interrupted.", highlight=False)
        if error.resumable:
            command = f"lmu train psmnist --resume {error.folder}"
            console.print(f"Continue with: {command}", highlight=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from error
