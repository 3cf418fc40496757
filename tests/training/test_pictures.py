import torch

from lmu.training.pictures import reconstruct


def test_a_smooth_signal_is_read_back_from_the_memory() -> None:
    t = torch.arange(400.0)
    signal = torch.sin(t / 30) + 0.5 * torch.cos(t / 17)
    decoded = reconstruct(signal, order=40, theta=300.0)
    assert decoded[:100].isnan().all()
    torch.testing.assert_close(decoded[105:395], signal[105:395].double(), atol=0.02, rtol=0)
