"""README's picture: the Pareto front of a finished study, drawn by the report's own figure.

`python -m bench.picture [--storage PLACE] [--study NAME]`. Needs Chromium to turn it into a PNG.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from dashboards.figures import draw_pareto, pareto_info
from dashboards.tables import trial_table
from dashboards.theme import LIGHT
from search.cli.readers import open_reader

__all__ = ["main"]

OUT = Path(__file__).parent.parent / "docs" / "images" / "front.png"
SIZE = (1100, 640)
CHROMIUM = "--headless=new --no-sandbox --disable-gpu --hide-scrollbars --disable-sync"
QUIET = "--disable-background-networking --disable-component-update --disable-quic --no-first-run"


def main() -> None:
    """Write docs/images/front.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", default="search-runs")
    parser.add_argument("--study")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("picture: Chromium is not installed (Debian: apt-get install chromium)")
    record = open_reader(arguments.storage, arguments.study)
    judge = record.judge
    finalists = trial_table(record.finalists(), judge, at_full=True)
    info = pareto_info(trial_table(record.trials(), judge), finalists, judge)
    figure = draw_pareto(info, LIGHT)
    figure.update_layout(width=SIZE[0], height=SIZE[1])
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "front.html"
        text = figure.to_html(config={"displayModeBar": False})
        page.write_text(text.replace("<body>", '<body style="margin: 0">'), encoding="utf-8")
        command = [
            *(chromium, *CHROMIUM.split(), *QUIET.split()),
            f"--user-data-dir={folder}/profile",
            f"--window-size={SIZE[0]},{SIZE[1]}",
            "--virtual-time-budget=8000",
            f"--screenshot={OUT}",
            page.as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    print(f"{OUT}: {record.spec.name}, {len(record.trials())} trials")


if __name__ == "__main__":
    main()
