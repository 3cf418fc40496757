"""Tables of time spread over processes."""

from benchmarks.cost_model import Work, model
from benchmarks.measure import duration
from docs.figures.records import record

ALGORITHMS = ("scan", "ring", "gather")


def carry() -> str:
    """Time and bytes of carrying a state, for each size of it and number of processes."""
    results = record("sequence-parallel")["carry"]
    rows = ["| state | processes | " + " | ".join(f"{name} | sent" for name in ALGORITHMS) + " |"]
    rows += ["|---|--:|" + "--:|--:|" * len(ALGORITHMS)]
    cases = {(row["batch"], row["order"], row["processes"]) for row in results}
    for batch, order, processes in sorted(cases):
        cells = []
        for algorithm in ALGORITHMS:
            (row,) = (
                row
                for row in results
                if (row["batch"], row["order"], row["processes"], row["way"])
                == (batch, order, processes, algorithm)
            )
            cells.append(f"{duration(row['seconds'])} | {size(row['sent_bytes'])}")
        rows.append(f"| {batch} x {order} | {processes} | {' | '.join(cells)} |")
    return "\n".join(rows)


def layer() -> str:
    """Time and memory of a training step over one long sequence."""
    results = record("sequence-parallel")["layer"]
    alone = results[0]["seconds"]
    rows = ["| processes | time (fastest to slowest) | speed | peak memory of one process |"]
    rows += ["|--:|--:|--:|--:|"]
    for row in results:
        spread = f"{duration(row['fastest'])} to {duration(row['slowest'])}"
        rows.append(
            f"| {row['processes']} | {duration(row['seconds'])} ({spread}) "
            f"| x{alone / row['seconds']:.2f} | {row['peak_mib']:.0f} MiB |"
        )
    return "\n".join(rows)


def errors() -> str:
    """Errors against one process in float64."""
    results = record("sequence-parallel")["errors"]
    rows = ["| precision | processes | outputs | gradient of the input "]
    rows[0] += "| gradients of weights and theta |"
    rows += ["|---|--:|--:|--:|--:|"]
    for row in results:
        cells = " | ".join(f"{row[name]:.0e}" for name in ("outputs", "x", "weights"))
        rows.append(f"| {row['dtype']} | {row['processes']} | {cells} |")
    return "\n".join(rows)


def powers() -> str:
    """Errors of states advanced by half a window."""
    results = record("sequence-parallel")["powers"]
    orders = sorted({row["order"] for row in results})
    rows = ["| theta | " + " | ".join(f"order {order}" for order in orders) + " |"]
    rows += ["|--:|" + "--:|" * len(orders)]
    for theta in sorted({row["theta"] for row in results}):
        cells = [
            f"{r['error']:.0e}"
            for o in orders
            for r in results
            if (r["order"], r["theta"]) == (o, theta)
        ]
        rows.append(f"| {theta:,.0f} | {' | '.join(cells)} |")
    return "\n".join(rows)


def extrapolated() -> str:
    """A row per number of processes: the cost model of 10^9 steps."""
    rows = ["| processes | steps of each | its outputs | arithmetic | " + " | ".join(ALGORITHMS)]
    rows[0] += " | efficiency of scan | sent by scan |"
    rows += ["|--:|--:|--:|--:|" + "--:|" * (len(ALGORITHMS) + 2)]
    for processes in (8, 64, 1000):
        step = model(Work(1e9, 256, 256), processes)
        carry_times = " | ".join(duration(step.carry[name]) for name in ALGORITHMS)
        rows.append(
            f"| {processes:,} | {step.steps:,.0f} | {size(step.output_bytes)} "
            f"| {duration(step.compute)} | {carry_times} | {step.efficiency('scan'):.0%} "
            f"| {size(step.sent['scan'])} |"
        )
    return "\n".join(rows)


def size(count: float) -> str:
    """Format a number of bytes."""
    for unit in ("bytes", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1e3
    return f"{count:.3g} GB"
