"""Trained networks with their data, metric and recipe."""
