import pytest
import torch
from rich.console import Console

from lmu.tasks.psmnist.digits import render_digit

# A light bar in the upper half and a grey one in the lower, on black.
DIGIT = torch.zeros(28, 28)
DIGIT[4:8, 3:20], DIGIT[20:24, 3:20] = 1.0, 0.4


def test_without_colours_greys_are_shades_of_characters():
    lines = render_digit(DIGIT, colors=False).plain.split("\n")
    assert [len(line) for line in lines] == [28] * 14
    assert set(lines[2][3:20]) == {"@"}
    assert len(set(lines[10][3:20])) == 1
    assert len({lines[0][0], lines[2][3], lines[10][3]}) == 3  # black, white and grey


def test_in_colours_a_line_has_two_rows():
    text = render_digit(DIGIT, colors=True)
    assert [len(line) for line in text.plain.split("\n")] == [28] * 14
    console = Console(color_system="truecolor", force_terminal=True, no_color=False, width=40)
    with console.capture() as capture:
        console.print(text)
    written = capture.get()
    assert "38;2;255;255;255" in written
    assert "38;2;102;102;102" in written
    assert written.count("\n") == 14  # and the caption follows at once


@pytest.mark.parametrize("grey", [0.0, 0.03, 0.5, 1.0])
def test_every_grey_has_a_shade(grey):
    shade = set(render_digit(torch.full((28, 28), grey), colors=False).plain)
    assert len(shade - {"\n"}) == 1
    assert (" " in shade) == (grey == 0)
