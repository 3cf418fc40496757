"""Training of models for classification and regression with Lightning."""
