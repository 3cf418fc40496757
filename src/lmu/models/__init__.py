"""Ready models built of the layers."""

from lmu.models.classifier import SequenceClassifier
from lmu.models.noise import GaussianNoise

__all__ = ["GaussianNoise", "SequenceClassifier"]
