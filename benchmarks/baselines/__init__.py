"""Textbook algorithms, as the papers' equations read."""

from benchmarks.baselines.stepwise import StepwiseLMU
from benchmarks.baselines.textbook_fft import NaiveLMUFFT, TextbookLMUFFT

__all__ = ["NaiveLMUFFT", "StepwiseLMU", "TextbookLMUFFT"]
