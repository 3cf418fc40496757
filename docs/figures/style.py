"""Style of the pages' pictures, legible on light and dark pages."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

from lmu._files import whole_file

IMAGES = Path(__file__).parent.parent / "images"

_INK = "#7d858f"  # legible on white and on near black
_LINES = ("#3f87d9", "#e07b28", "#2fa36f", "#c4568f", "#8a73d6", "#b0942a")

_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.prop_cycle": cycler(color=_LINES),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _INK,
    "axes.titlesize": "medium",
    "font.size": 11,
    "grid.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "legend.labelcolor": _INK,
    "lines.linewidth": 1.6,
    "savefig.transparent": True,
    "svg.hashsalt": "lmu",  # the same bytes from the same numbers
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def new(width: float = 6.4, height: float = 3.0) -> Figure:
    """Create an empty figure, in inches; sets Matplotlib's style globally."""
    mpl.rcParams.update(_STYLE)
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write an SVG file without a date, so that it changes only with the numbers in it."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, metadata={"Date": None})
