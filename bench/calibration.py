"""How far `search calibrate` can be trusted here: `python -m bench.calibration`.

It fits the profile of each runtime on this machine and says how far the model is off on networks
that the fit did not see.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.results import write_results

__all__ = ["main"]

RUNTIMES = {"host": "torch", "x86": "ONNX Runtime"}


def calibrated(target: str, folder: Path) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "search.cli", "calibrate", "--target", target, "--json",
        "--out", str(folder / f"{target}.toml"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench.calibration: {' '.join(command)}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    rows, notes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for target, runtime in RUNTIMES.items():
            found = calibrated(target, Path(folder))
            unseen = found["median_error_held_out_pct"]
            row = {"network": f"median of {found['held_out']} not fitted", "kind": ""}
            times = {"measured_ms": None, "modelled_ms": None, "error_pct": unseen}
            rows.append({"target": target, **row, **times})
            rows += [{"target": target, **row} for row in found["known"]]
            figures = ", ".join(f"{name} {value:.3g}" for name, value in found["figures"].items())
            notes.append(
                f"{target} ({runtime}): {figures}. Median error on the networks fitted "
                f"{found['median_error_fitted_pct']} %, on the others {unseen} % (a tenth of them "
                f"over {found['p90_error_held_out_pct']} %); {found['median_error_before_pct']} % "
                "with the shipped figures."
            )
    notes.append("error_pct: modelled over measured, less 1; of a median row its absolute value.")
    title = "Latency model fitted to this machine, on networks it did not see"
    write_results("calibration", title, "make bench-calibration", rows, notes)


if __name__ == "__main__":
    main()
