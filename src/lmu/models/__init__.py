"""Ready models built of the layers."""

from lmu.models.classifier import SequenceClassifier

__all__ = ["SequenceClassifier"]
