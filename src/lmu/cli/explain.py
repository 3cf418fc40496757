"""``lmu explain``."""

from typing import Annotated

import typer
from rich.table import Table

from lmu.cli._shared import console

# Costs hold for any size; planning the FFT of a longer sequence takes too long.
_MOST = {
    "length": 10**9,
    "order": 10**5,
    "--hidden-size": 10**6,
    "--batch-size": 10**6,
    "--channels": 10**4,
}


def explain(
    length: Annotated[int, typer.Argument(help="Time steps of a sequence.")],
    order: Annotated[int, typer.Argument(help="Order of the memory.")],
    hidden_size: Annotated[int, typer.Option(help="Hidden units that read the memory.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    channels: Annotated[int, typer.Option(help="Memories.")] = 1,
    state: Annotated[bool, typer.Option(help="Start from an initial state.")] = False,
) -> None:
    """Show how a memory of this size is evaluated, the reason and the cost."""
    from lmu.ops import Problem, explain_lmu, explain_memory, explain_readout

    sizes = {"length": length, "order": order, "--hidden-size": hidden_size,
             "--batch-size": batch_size, "--channels": channels}  # fmt: skip
    for size, value in sizes.items():
        if not 1 <= value <= _MOST[size]:
            bound = "least 1" if value < 1 else f"most {_MOST[size]:,}"
            raise typer.BadParameter(f"must be at {bound}, got {value}", param_hint=size)
    problem = Problem(length, order, hidden_size, batch_size, channels)
    choices = {
        "LMUFFT, all outputs": explain_readout(problem, initial_state=state),
        "LMUFFT, last output": explain_memory(problem, all_states=False, initial_state=state),
        "LMU": explain_lmu(problem),
        "LMU without feedback": explain_lmu(problem, feedback=False),
    }
    title = f"{length} steps, order {order}, {hidden_size} hidden units, batch {batch_size}"
    title += f", {channels} channels" if channels > 1 else ""
    table = Table("work", "method", "why", "GFLOP", "MiB", title=title)
    for name, choice in choices.items():
        assert choice.cost is not None
        figures = (f"{choice.cost.flops / 1e9:.3g}", f"{choice.cost.bytes / 2**20:.3g}")
        table.add_row(name, choice.method, choice.reason, *figures)
    table.caption = choices["LMUFFT, all outputs"].machine or None
    console.print(table)
