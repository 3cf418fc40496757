import numpy as np
import torch

from lmu.tasks.psmnist.data import PsMNIST
from lmu.tasks.psmnist.figures import draw_window, reconstruct
from lmu.training.pictures import draw_answers, draw_confusion, draw_curves

DIGITS = tuple("0123456789")


def test_a_smooth_signal_is_read_back_from_the_memory() -> None:
    t = torch.arange(400.0)
    signal = torch.sin(t / 30) + 0.5 * torch.cos(t / 17)
    decoded = reconstruct(signal, order=40, theta=300.0)
    assert decoded[:100].isnan().all()
    torch.testing.assert_close(decoded[105:395], signal[105:395].double(), atol=0.02, rtol=0)


def test_curves_have_titles_and_mark_the_tested_epoch() -> None:
    rows = [
        {
            "epoch": n,
            "train_loss": 1 / n,
            "val_loss": 1 / n,
            "train_accuracy": 0.5,
            "val_accuracy": 0.5,
        }
        for n in range(1, 6)
    ]
    figure = draw_curves(rows, chosen=3, title="a model")
    assert figure.get_suptitle() == "a model"
    for axes in figure.axes:
        assert axes.get_title()
        *_, mark = axes.lines
        assert np.asarray(mark.get_xdata()).tolist() == [3, 3]
        assert mark.get_label() == "tested: epoch 3"


def test_right_answers_and_mistakes_have_a_scale_each() -> None:
    confusion = torch.eye(10, dtype=torch.int64) * 90
    confusion[2, 7] = 8
    axes, *bars = draw_confusion(confusion, "digits", DIGITS).axes
    assert {bar.get_ylabel() for bar in bars} == {"right answers", "mistakes"}
    shown = [np.ma.asarray(image.get_array()) for image in axes.images]
    assert [cells.count() for cells in shown] == [10, 90]
    assert axes.get_title() == "test digits: 900 of 908 right"
    draw_confusion(torch.zeros(10, 10, dtype=torch.int64), "digits", DIGITS)  # a scale from 0 to 1


def test_the_window_lies_over_the_pixels() -> None:
    task = PsMNIST(limit=1)
    x, _ = task.test_part()
    figure = draw_window(x[0], task, 60, 784.0)
    overlaid = [axes for axes in figure.axes if axes.lines]
    assert [len(axes.lines) for axes in overlaid] == [2, 2]
    for axes in overlaid:
        told, held = axes.lines
        np.testing.assert_array_equal(told.get_xdata(), held.get_xdata())
        assert axes.get_title()


def test_predictions_are_drawn_against_the_truth() -> None:
    targets = torch.randn(30, 2)
    figure = draw_answers(2 * targets, targets, "windows", ("level", "slope"))
    assert [axes.get_title() for axes in figure.axes] == ["level", "slope"]
    for i, axes in enumerate(figure.axes):
        drawn, _ = axes.lines
        np.testing.assert_allclose(np.asarray(drawn.get_xdata()), targets[:, i].numpy())
        np.testing.assert_allclose(np.asarray(drawn.get_ydata()), 2 * targets[:, i].numpy())
    assert len(draw_answers(targets[:, 0], targets[:, 0], "windows", ()).axes) == 1
