import pytest
import torch

from experiments.capacity.data import band_limited_noise
from experiments.capacity.models import decoding_error
from lmu import LegendreMemory

F64 = torch.float64


def test_noise_has_no_frequency_above_the_cutoff():
    signal = band_limited_noise(4000, 500, seed=1, batch=3)
    power = torch.fft.rfft(signal).abs()
    last = 10 * 4000 // 500
    assert power[:, 1 : last + 1].min() > 0
    assert power[:, last + 1 :].max() < 1e-9 * power.max()
    torch.testing.assert_close(signal.square().mean(1), torch.ones(3, dtype=F64))
    assert not torch.equal(signal[0], signal[1])
    torch.testing.assert_close(band_limited_noise(4000, 500, seed=1, batch=3), signal)
    with pytest.raises(ValueError, match="10 steps hold no frequency up to 10 cycles in 500 steps"):
        band_limited_noise(10, 500, seed=0)


def test_error_is_that_of_each_delay():
    """Against the memory's states of all steps, decoded one by one."""
    signal = band_limited_noise(500, 100, seed=0, batch=2)
    layer = LegendreMemory(40, 100, dtype=F64)
    delays = torch.tensor([0, 13, 99])
    ends = torch.linspace(101, 500, 7).long()
    wrong = []
    for end in ends.tolist():
        m = layer(signal[:, :end, None])[1]
        wrong.append(layer.decode(m, delays)[..., 0] - signal[:, end - 1 - delays])
    power = signal[:, 100:].square().mean()
    expected = (torch.stack(wrong).square().mean(dim=(0, 1)) / power).sqrt()
    torch.testing.assert_close(decoding_error(layer, signal, delays, reads=7), expected)


def test_a_memory_of_enough_polynomials_holds_its_window():
    signal = band_limited_noise(4000, 1000, seed=0)
    delays = torch.linspace(20, 950, 9).long()
    few, many = (
        decoding_error(LegendreMemory(order, 1000, dtype=F64), signal, delays, reads=50)
        for order in (24, 60)
    )
    assert many.max() < 5e-3
    assert few.max() > 0.1
    with pytest.raises(ValueError, match="must be longer than 2000 steps, got 1500"):
        decoding_error(LegendreMemory(24, 1000, dtype=F64), signal[:, :1500], delays)
