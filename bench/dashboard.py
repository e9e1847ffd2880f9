"""The dashboard over a study of 10,000 trials and 60 knobs, in a real browser.

`python -m bench.dashboard [--trials 10000] [--minutes 0] [--place FOLDER]`. Chromium without a GPU
opens the study's front, and a slider is moved as a hand moves it. Times are the page's own clock:

    first paint   from the start of the navigation to the plot being drawn
    answer        from the slider's input event to the recommendation's new words
    plot          ... to the plot having been drawn anew

With `--minutes` trials are appended, one a second, while the page is open; memory of server and
page is read every minute after a garbage collection.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.results import write_results
from bench.studies import write_big_study
from search.location import StudyLocation
from search.record import Record, RecordReader
from tests.dashboards.chromium import open_chromium

__all__ = ["main"]

MOVES = 30
PAINTS = 5
STUDY = "big"

_DRAWN = "return document.querySelector('#pareto .scatterlayer .trace') !== null"
_PAINT = """
const paint = performance.getEntriesByName('first-contentful-paint')[0];
return [paint ? paint.startTime : null, window.drawnAt || null];
"""
#: Before any script of the page: notes when the first plot is there.
_WATCH = """
new MutationObserver((_, watcher) => {
  if (document.querySelector('#pareto .scatterlayer .trace .points path')) {
    window.drawnAt = performance.now();
    watcher.disconnect();
  }
}).observe(document, {childList: true, subtree: true});
"""
#: One move; resolves to [ms to the answer, ms to the plot].
_MOVE = """
const [position, done] = arguments;
const slider = document.getElementById('limit-kb');
const plot = document.querySelector('#pareto .js-plotly-plot');
const before = document.getElementById('answer').textContent;
const times = [null, null];
const finish = () => {
  if (times[0] === null || times[1] === null) return;
  watcher.disconnect();
  done(times);
};
const watcher = new MutationObserver(() => {
  if (times[0] === null && document.getElementById('answer').textContent !== before) {
    times[0] = performance.now() - started; finish();
  }
});
const wanted = {childList: true, subtree: true, characterData: true};
watcher.observe(document.getElementById('answer'), wanted);
plot.once('plotly_afterplot', () => { times[1] = performance.now() - started; finish(); });
setTimeout(() => { watcher.disconnect(); done(times); }, 5000);
const started = performance.now();
// React overrides the element's own setter, and would not notice the change.
const setter = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;
setter.call(slider, String(position));
slider.dispatchEvent(new Event('input', {bubbles: true}));
slider.dispatchEvent(new Event('change', {bubbles: true}));
"""


def resident_mb(pid: int) -> float:
    """Of a process, now, 10^6 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} shows no VmRSS")


@contextmanager
def served(place: Path) -> Iterator[tuple[str, int, float]]:
    """URL and process of `search dashboard`, and the seconds until it had read the study."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "search.cli", "dashboard", "--port", "0", "--json"]
    server = subprocess.Popen(
        [*command, "--storage", str(place)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        # The CSV needs the whole record: it comes when the study has been read.
        with urllib.request.urlopen(f"{url}download/{STUDY}/0/policy.json", timeout=120) as answer:
            answer.read()
        yield url, server.pid, time.perf_counter() - started
    finally:
        server.terminate()
        server.wait(timeout=20)


def paint_ms(browser: Any, url: str) -> tuple[float, float]:
    """(first contentful paint, plot drawn) of one visit."""
    browser.get("about:blank")
    browser.get(url)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        first, drawn = browser.execute_script(_PAINT)
        if first is not None and drawn is not None:
            return first, drawn
        time.sleep(0.02)
    raise TimeoutError("the plot was never drawn")


def row(what: str, values: list[float], goal: str) -> Mapping[str, Any]:
    """One line of the table; at least two values."""
    ordered = sorted(values)
    return {
        "what": what,
        "median": round(statistics.median(ordered)),
        "worst": round(ordered[-1]),
        "n": len(ordered),
        "goal": goal,
    }


def feel(browser: Any, url: str) -> list[Mapping[str, Any]]:
    """Paints and slider moves."""
    page = f"{url}study/{STUDY}/front"
    paints = [paint_ms(browser, page) for _ in range(PAINTS)]
    time.sleep(2)
    answers, plots = [], []
    for i in range(MOVES):
        # Back and forth, as a hand looks for a place; never the same position twice.
        position = 250 + (37 * i) % 600
        answer, plot = browser.execute_async_script(_MOVE, position)
        if answer is not None:
            answers.append(answer)
        if plot is not None:
            plots.append(plot)
        time.sleep(0.3)
    return [
        row("first contentful paint, ms", [first for first, _ in paints], ""),
        row("first paint of the plot, ms", [drawn for _, drawn in paints], "< 2000"),
        row("slider to the new answer, ms", answers, "< 150"),
        row("slider to the new plot, ms", plots, "< 150"),
    ]


def grow(location: StudyLocation, stop: threading.Event) -> None:
    """Append a trial a second: those there are, under other random numbers."""
    reader = RecordReader.open(location)
    patterns, asked = reader.trials(), reader.spec
    with Record.open(location, replace(asked, trials=len(patterns) + 100_000)) as record:
        for repeat in range(1, 1000):
            for pattern in patterns:
                if stop.wait(1.0):
                    return
                identity = replace(pattern.identity, repeat=repeat)
                record.append(replace(pattern, identity=identity))
                record.write_driver({"phase": "search", "workers": 1, "running": []})


def watch(
    browser: Any, url: str, pid: int, location: StudyLocation, minutes: int
) -> list[Mapping[str, Any]]:
    """Memory over minutes of live updates."""
    browser.get(f"{url}study/{STUDY}/front")
    stop = threading.Event()
    writer = threading.Thread(target=grow, args=(location, stop))
    writer.start()
    rows = []
    try:
        for minute in range(minutes + 1):
            browser.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
            metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            known = {metric["name"]: metric["value"] for metric in metrics}
            status = browser.execute_script("return document.getElementById('status').textContent")
            rows.append(
                {
                    "minute": minute,
                    "server_mb": round(resident_mb(pid)),
                    "page_heap_mb": round(known["JSHeapUsedSize"] / 1e6, 1),
                    "page_nodes": int(known["Nodes"]),
                    "status": status[:60],
                }
            )
            print(json.dumps(rows[-1]), flush=True)
            if minute < minutes:
                time.sleep(60)
    finally:
        stop.set()
        writer.join()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--knobs", type=int, default=60)
    parser.add_argument("--minutes", type=int, default=0, help="of live updates")
    parser.add_argument("--place", type=Path, help="where the study is, or is written")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-dashboard-") as folder:
        place = arguments.place or Path(folder)
        location = StudyLocation(str(place), STUDY)
        if STUDY not in StudyLocation.list_studies(str(place)):
            write_big_study(place, arguments.trials, arguments.knobs, STUDY)
        with (
            served(place) as (url, pid, ready_s),
            open_chromium(Path(folder) / "profile") as browser,
        ):
            browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _WATCH})
            browser.execute_cdp_cmd("Performance.enable", {})
            rows = feel(browser, url)
            rows.append(
                {
                    "what": "server start to study read, ms",
                    "median": round(1000 * ready_s),
                    "worst": round(1000 * ready_s),
                    "n": 1,
                    "goal": "",
                }
            )
            live = (
                watch(browser, url, pid, location, arguments.minutes) if arguments.minutes else []
            )
    command = f"python -m bench.dashboard --trials {arguments.trials} --knobs {arguments.knobs}"
    title = f"The dashboard over {arguments.trials:,} trials x {arguments.knobs} knobs"
    write_results("dashboard", title, command, rows, notes=NOTES)
    if live:
        write_results(
            "dashboard-live",
            f"{arguments.minutes} minutes of live updates, one trial a second",
            f"{command} --minutes {arguments.minutes}",
            live,
            notes=LIVE_NOTES,
        )


NOTES = (
    "Headless Chromium without a GPU, server and browser on the same cores.",
    "The record was read before the first visit (last row).",
    "Dash's scripts come from the browser's cache after the first visit, which is among them.",
)
LIVE_NOTES = (
    "The study itself grows by some 3,600 trials an hour; the server holds them all in memory.",
    "page_heap_mb: JavaScript heap in use after a garbage collection.",
)


if __name__ == "__main__":
    main()
