"""Training from Python: `fit`, and the `Run` that it returns."""
