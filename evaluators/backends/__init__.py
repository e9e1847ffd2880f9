"""One folder a training framework."""
