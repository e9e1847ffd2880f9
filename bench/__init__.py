"""Measurements taken on purpose: `make bench`. Results, with machine and date, are in results/."""

import os

# As the product's own processes (search/cli): threads that wait for each other take cores too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
