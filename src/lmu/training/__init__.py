"""One LightningModule for classification tasks, and one way to run it."""
