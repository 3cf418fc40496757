"""Fit of rates, their tables for numbers of threads, and the choices that follow from them."""

import math
from functools import partial

import pytest
import torch

from lmu.ops import (
    LMU_METHODS,
    MEMORY_METHODS,
    READOUT_METHODS,
    Problem,
    explain_readout,
    native,
    rates,
)
from lmu.ops.cost import Machine, compare, explain_machine, present_machine
from lmu.ops.fit import Sample, fit_rates, non_negative
from lmu.ops.lmu import dispatch as lmu_dispatch
from lmu.ops.memory import dispatch as memory_dispatch
from lmu.ops.readout import dispatch as readout_dispatch

TABLES = {"memory": MEMORY_METHODS, "readout": READOUT_METHODS, "lmu": LMU_METHODS}
SIZES = [
    Problem(T, d, n, b, c)
    for T in (1, 7, 64, 5000)
    for d in (1, 8, 468)
    for n, b, c in ((1, 1, 1), (64, 8, 4), (346, 100, 1))
]


def table(threads: int, core: bool = True, **of_methods: dict[str, float]) -> rates.Table:
    source = {"cpu": "a processor", "date": "2026-01-01"}
    fitted = {"rates": {"readout": of_methods}, "source": source}
    return {"device": "cpu", "threads": threads, "core": core} | fitted


def test_non_negative_least_squares_satisfies_its_conditions():
    g = torch.Generator().manual_seed(0)
    bound = 0
    for _ in range(20):
        a = torch.rand(12, 4, dtype=torch.float64, generator=g)
        b = torch.randn(12, dtype=torch.float64, generator=g)
        x = non_negative(a, b)
        gradient = a.mT @ (a @ x - b)
        assert (x >= 0).all()
        assert (gradient > -1e-9).all()  # no rate wants to grow
        torch.testing.assert_close(x * gradient, torch.zeros_like(x), atol=1e-9, rtol=0)
        bound += int((x == 0).sum())
    assert bound  # else plain least squares would do


def test_fit_finds_the_rates_that_times_were_made_of():
    true = {"calls": 3e-6, "flops": 2e-11, "bytes": 5e-10}
    g = torch.Generator().manual_seed(0)
    amounts = [
        {"calls": 40.0, "flops": 10**f, "bytes": 10**b}
        for f, b in (torch.rand(30, 2, generator=g) * 5 + 4).tolist()
    ]
    samples = [Sample(a, sum(true[t] * v for t, v in a.items())) for a in amounts]
    fitted = fit_rates(samples)
    assert fitted == pytest.approx(true, rel=1e-5)
    twice = [s._replace(seconds=2 * s.seconds) for s in samples]
    assert fit_rates(twice) == pytest.approx({k: 2 * v for k, v in true.items()}, rel=1e-5)


def test_fit_is_as_wrong_upwards_as_downwards():
    samples = [Sample({"calls": 1.0}, seconds) for seconds in (1e-6, 4e-6)]
    assert fit_rates(samples)["calls"] == pytest.approx(2e-6, rel=1e-3)


def test_fit_trusts_the_prior_where_nothing_was_measured():
    samples = [Sample({"calls": 10.0, "flops": 0.0}, 1e-4)] * 3
    fitted = fit_rates(samples, {"calls": 1e-5, "flops": 7e-12}, trust=0.5)
    assert fitted == pytest.approx({"calls": 1e-5, "flops": 7e-12})


def test_too_many_terms_are_refused():
    with pytest.raises(ValueError, match="at most 10 terms can be fitted, got 11"):
        non_negative(torch.ones(20, 11, dtype=torch.float64), torch.ones(20, dtype=torch.float64))


def test_more_threads_share_what_two_threads_shared():
    one, two = {"calls": 4e-6, "flops": 2e-11}, {"calls": 4e-6, "flops": 1.2e-11}
    with rates.using([table(1, fft=one), table(2, fft=two)]):
        look = partial(rates.rates, "readout", "fft", "cpu", core=True, version=rates.version())
        assert [look(threads=n)["flops"] for n in (1, 2)] == [2e-11, 1.2e-11]
        assert look(threads=4)["flops"] == pytest.approx(0.4e-11 + 1.6e-11 / 4)
        assert look(threads=64)["calls"] == 4e-6
        assert look(threads=4)["bytes"] == rates.TYPICAL["bytes"]


def test_tables_of_the_core_and_of_a_machine_come_first():
    own = table(1, fft={"flops": 1.0}) | {"file": "cache/rates.json"}
    with rates.using([own, table(1, fft={"flops": 2.0}), table(1, False, fft={"flops": 3.0})]):
        version = rates.version()
        assert rates.rates("readout", "fft", "cpu", 1, True, version)["flops"] == 1.0
        assert rates.rates("readout", "fft", "cpu", 1, False, version)["flops"] == 3.0
        assert rates.rates("readout", "fft", "cuda", 1, True, version)["flops"] == 1.0
        where = explain_machine(Machine(1, False), "cpu")
        assert where.startswith("1 thread, no compiled core: ")
        assert where.endswith("costs fitted on a processor")
        assert rates.source("cpu", 1, True).endswith("2026-01-01, file cache/rates.json")
    with rates.using([]):
        assert rates.source("cpu", 1, True) == "costs estimated"


@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize("core", [True, False])
def test_estimates_are_positive_and_grow_with_the_batch(family, core):
    machine = Machine(2, core, rates.version())
    for p in SIZES:
        if family == "lmu" and p.order * p.channels > 500:
            continue
        seconds = compare(family, TABLES[family], p, machine)
        assert seconds
        assert all(0 < s < math.inf for s in seconds.values())
        assert list(seconds.values()) == sorted(seconds.values())
        larger = Problem(p.length, p.order, p.rows, 4 * p.batch, p.channels)
        for name, s in compare(family, TABLES[family], larger, machine).items():
            assert s >= seconds[name]


def test_methods_of_the_core_are_chosen_only_where_it_can_run(monkeypatch):
    methods = READOUT_METHODS | {
        "magic": READOUT_METHODS["fft"]._replace(
            needs="core", starts=True, terms=lambda *_: {"calls": 1e-9}
        )
    }
    monkeypatch.setattr(readout_dispatch, "READOUT_METHODS", methods)
    p = Problem(64, 8, 16, 3)
    for initial_state in (False, True):
        fastest = [
            next(iter(readout_dispatch._seconds(p, initial_state, Machine(1, core, -1))))
            for core in (True, False)
        ]
        assert fastest[0] == "magic"
        assert fastest[1] != "magic"


@pytest.mark.parametrize("dispatch", [memory_dispatch, readout_dispatch, lmu_dispatch])
def test_choices_follow_threads_core_and_rates(dispatch):
    p = Problem(64, 8, 16, 3)
    choose = {
        memory_dispatch: partial(memory_dispatch.choose_memory, all_states=True),
        readout_dispatch: readout_dispatch.choose_readout,
        lmu_dispatch: lmu_dispatch.choose_lmu,
    }[dispatch]
    family = dispatch.__name__.split(".")[2]
    for forced in ("chunked", "fft") if family != "lmu" else ("blocks", "loop"):
        costs = {name: {"calls": 1.0} for name in TABLES[family]} | {forced: {"calls": 1e-30}}
        free = dict.fromkeys(rates.TYPICAL, 0.0)
        made = {name: free | of for name, of in costs.items()}
        both = [table(1, core) | {"rates": {family: made}} for core in (True, False)]
        with rates.using(both):
            assert choose(p) == forced
    assert choose(p) == choose(p)


def test_explanations_say_why_there_is_no_core():
    with native.use(None):
        choice = explain_readout(Problem(64, 8, 16, 3))
        reason = native.native_status().reason
    assert choice.machine.startswith(f"1 thread, no compiled core: {reason}")
    assert explain_readout(Problem(1, 8, 16, 3)).machine == ""
    assert present_machine() == Machine(1, native.is_available(), rates.version())
