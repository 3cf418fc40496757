"""Tables of the stream server."""

from docs.figures.records import record


def rates() -> str:
    """A row per layer and number of streams: millions of steps a second."""
    layers = record("streams")["layers"]
    names = list(next(iter(layers["LMU"]["rates"].values()))["contenders"])
    rows = [f"| layer | streams | {' | '.join(names)} | Stream's share of the arithmetic's rate |"]
    rows += ["|---|--:|" + "--:|" * (len(names) + 1)]
    for layer, results in layers.items():
        for streams, row in results["rates"].items():
            figures = row["contenders"]
            cells = [_millions(figures[name]["steps_per_second"]) for name in names]
            share = f"{figures['Stream']['share']:.0%}"
            rows.append(f"| {layer} | {int(streams):,} | {' | '.join(cells)} | {share} |")
    return "\n".join(rows)


def endurance() -> str:
    """Memory and errors of a server after an hour's steps."""
    rows = ["| layer | ticks | steps of a stream | a second | memory | live tensors | error |"]
    rows += ["|---|--:|--:|--:|--:|--:|--:|"]
    for layer, results in record("streams")["layers"].items():
        served = results["endurance"]
        for ticks in sorted(served["memory"], key=int)[:: len(served["memory"]) - 1]:
            now, last = served["memory"][ticks], int(ticks) == served["ticks"]
            end = [f"{served['steps']:,}", _millions(served["steps_per_second"])]
            steps, rate = end if last else ("", "")
            error = f"{served['error']:.0e}" if last else ""
            rows.append(
                f"| {layer} | {int(ticks):,} | {steps} | {rate} | {now['mib']:.1f} MiB "
                f"| {now['tensors']} | {error} |"
            )
    return "\n".join(rows)


def errors() -> str:
    """Relative errors of all outputs against float64."""
    rows = ["| layer | all streams step | a half of them does |", "|---|--:|--:|"]
    for layer, results in record("streams")["layers"].items():
        rows.append(
            f"| {layer} | {results['errors']['all']:.0e} | {results['errors']['half']:.0e} |"
        )
    return "\n".join(rows)


def _millions(rate: float) -> str:
    """Format a rate in millions, with two digits."""
    return f"{rate / 1e6:.1f} M" if rate >= 1e6 else f"{rate / 1e6:.2g} M"
