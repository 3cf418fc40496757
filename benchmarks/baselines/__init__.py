"""The textbook algorithms, as a reader of the papers would write them down."""

from benchmarks.baselines.stepwise import StepwiseLMU
from benchmarks.baselines.textbook_fft import NaiveLMUFFT, TextbookLMUFFT

__all__ = ["NaiveLMUFFT", "StepwiseLMU", "TextbookLMUFFT"]
