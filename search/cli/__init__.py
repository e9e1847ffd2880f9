"""The command line: the composition root. Nothing imports it."""

import os

# Before numpy loads and BLAS starts a thread a core. A proposal's matrices are small; on a machine
# whose cores train candidates, threads that wait for each other made proposals 4 times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
