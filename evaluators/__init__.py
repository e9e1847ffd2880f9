"""Policy -> measurement: the only room that knows torch, runtimes and file formats."""
