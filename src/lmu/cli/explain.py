"""``lmu explain``."""

from typing import Annotated

import typer
from rich.table import Table

from lmu.cli._shared import console


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
