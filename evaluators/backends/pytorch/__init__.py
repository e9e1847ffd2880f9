"""The PyTorch backend: stages, training, audit, export and scoring of torch networks."""
