"""The figures and pictures of docs/concepts.md and docs/numerics.md, at small sizes."""

import pytest

from benchmarks import concepts, numerics
from docs.figures import concepts as pictures
from docs.figures import style
from docs.figures.records import record


def test_a_sine_is_held_up_to_the_frequency_that_is_found():
    layer = concepts.memory(8, 100)
    most = concepts._reaches(layer, 100, 0.1)
    assert 1.5 < most < 2.0
    assert concepts.decoding_error(layer, concepts.sines(most, 100)) < 0.1
    assert concepts.decoding_error(layer, concepts.sines(most + 0.1, 100)) > 0.1


def test_the_best_read_out_lies_between_decoding_and_the_bound():
    rows = {row["order"]: row for row in record("concepts")["noise"]["rows"]}
    assert all(row["least"] < row["best"] < row["decoded"] < 1 for row in rows.values())
    assert concepts._best_read_out(64, 512) == pytest.approx(rows[64]["best"], abs=1e-3)


def test_the_half_step_counts():
    errors = concepts.of_half_step(order=16, theta=50, cycles=2)["errors"]
    assert errors["with"] < errors["without"] / 10


def test_the_increment_loses_least():
    errors = numerics.errors(8, 400)
    assert errors["increment"] < min(errors["product"], errors["float32 discretization"])
    assert errors["increment"] < 1e-5


def test_pictures_depend_on_figures_alone(tmp_path):
    measured = record("concepts")
    for name in ("a.svg", "b.svg"):
        style.save(pictures.by_order(measured["frequency"]), tmp_path / name)
        style.save(pictures.orders(), tmp_path / f"orders-{name}")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "orders-a.svg").read_bytes() == (tmp_path / "orders-b.svg").read_bytes()
