"""Tables of the models on real series."""

import statistics

from docs.figures.records import record


def _models(*data: str) -> dict[str, dict[str, list[dict]]]:
    """Group the rows by model and data set."""
    models: dict[str, dict[str, list[dict]]] = {}
    for row in record("series")["rows"]:
        if row["data"] in data:
            models.setdefault(row["model"], {}).setdefault(row["data"], []).append(row)
    return models


def _spread(values: list[float], digits: int) -> str:
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def _parameters(row: dict) -> str:
    return f"{row['parameters']:,}" if "parameters" in row else ""


def classification() -> str:
    """A row per model: accuracies on each data set."""
    names = ("JapaneseVowels", "BasicMotions")
    heads = " | ".join(f"{name}: parameters | validation | test" for name in names)
    rows = [f"| model | {heads} |", "|---|" + "--:|" * (3 * len(names))]
    for model, data in _models(*names).items():
        cells = []
        for name in names:
            group = data[name]
            cells.append(_parameters(group[0]))
            for figure in ("validation", "test"):
                cells.append(_spread([100 * row[figure] for row in group], 1) + " %")
        rows.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(rows)


def forecast() -> str:
    """A row per model: errors over all years ahead, and of some."""
    ahead = (1, 2, 4, 8, 11)
    heads = " | ".join(f"{year} year{'s' * (year > 1)} ahead" for year in ahead)
    rows = [f"| model | parameters | validation | test | {heads} |"]
    rows += ["|---|" + "--:|" * (3 + len(ahead))]
    for model, data in _models("sunspots").items():
        group = data["sunspots"]
        cells = [_parameters(group[0])]
        cells += [_spread([row[figure] for row in group], 1) for figure in ("validation", "test")]
        cells += [_spread([row["by_horizon"][year - 1] for row in group], 1) for year in ahead]
        rows.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(rows)
