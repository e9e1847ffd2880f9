"""Measurements taken on purpose: `make bench`. Results, with machine and date, are in results/."""
