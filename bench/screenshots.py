"""Pictures of every page of the dashboard, light and dark, 1440 and 390 px wide.

`python -m bench.screenshots [--storage PLACE] [--study NAME] [--beside NAME]` writes docs/images.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dashboards.app.access import Access
from dashboards.app.library import Library
from dashboards.app.server import build_app
from dashboards.app.serving import create_server
from search.location import StudyLocation
from search.record import RecordReader
from search.session import answer_of
from tests.dashboards.chromium import open_chromium

__all__ = ["main"]

OUT = Path(__file__).parent.parent / "docs" / "images"
WIDTHS = (1440, 390)
#: A picture is cut here: the rest of a page is for readers, not for a README.
TALLEST_PX = {"front": 1000, "trials": 1000}
MOST_PX = 4200


@contextmanager
def served(storage: str) -> Iterator[str]:
    """The dashboard in a thread of this process."""
    server = create_server(build_app(Library(storage), Access("127.0.0.1")), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"
    finally:
        server.close()


def pages(study: str, beside: str) -> dict[str, str]:
    """Name of a picture -> path."""
    point = f"/study/{study}/front?kb=60&a=%s&b=%s"
    over = f"?beside={beside}" if beside else ""
    return {
        "studies": "/",
        "front": f"/study/{study}/front{over}",
        "point": point,
        "trials": f"/study/{study}/trials",
        "progress": f"/study/{study}/progress",
        "insight": f"/study/{study}/insight",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", default="search-runs")
    parser.add_argument("--study")
    parser.add_argument("--beside", default="")
    arguments = parser.parse_args()
    location = (
        StudyLocation(arguments.storage, arguments.study)
        if arguments.study
        else StudyLocation.latest(arguments.storage)
    )
    reader = RecordReader.open(location)
    front = answer_of(reader).front
    suffix = "@full" if front.fidelity == reader.spec.full_fidelity else ""
    names = [f"{trial.number}{suffix}" for trial in front.members]
    OUT.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        served(arguments.storage) as url,
        open_chromium(Path(folder) / "profile") as browser,
    ):
        for theme in ("light", "dark"):
            for width in WIDTHS:
                for name, path in pages(location.study, arguments.beside).items():
                    shown = path % (names[len(names) // 2], names[0]) if "%s" in path else path
                    take(browser, url + shown, theme, width, OUT / f"{name}-{theme}-{width}.png")


def take(browser: object, url: str, theme: str, width: int, out: Path) -> None:
    """One picture of a page from its top."""
    name = out.name.partition("-")[0]
    size = {"width": width, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "height": 900})
    feature = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": url, "storageTypes": "all"})
    browser.get(url)
    time.sleep(3)
    tall = browser.execute_script("return document.documentElement.scrollHeight")
    height = min(tall, TALLEST_PX.get(name, MOST_PX) if width > 600 else MOST_PX)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "height": height})
    time.sleep(1)
    browser.save_screenshot(str(out))
    print(f"{out}: {width} x {height}")


if __name__ == "__main__":
    main()
