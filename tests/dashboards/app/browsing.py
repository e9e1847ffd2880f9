"""The dashboard as a reader has it: a real server, a real browser, and what hands do there."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dash import Dash

from dashboards.app.serving import create_server

__all__ = ["Reader", "serve"]

WAIT_S = 20.0
TELEPHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
DESK = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}

#: Drawn points of a plot that stand alone and in sight: [index among all paths, trial, x, y].
_POINTS = """
const plot = document.querySelector('#pareto .js-plotly-plot');
const frame = plot.querySelector('.nsewdrag').getBoundingClientRect();
const found = [];
plot.querySelectorAll('.scatterlayer .trace .points path.point').forEach((path, at) => {
  const box = path.getBoundingClientRect();
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  if (x < frame.left + 5 || x > frame.right - 5) return;
  if (y < frame.top + 5 || y > frame.bottom - 5) return;
  const point = path.__data__;
  const trace = point.trace || path.parentNode.__data__[0].trace;
  const data = (trace.customdata || [])[point.i];
  found.push({at, name: data ? String(data[0]) : '', x, y, data: [point.x, point.y]});
});
return found.map((one) => ({...one, alone: Math.min(...found
  .filter((other) => other.name !== one.name)
  .map((other) => Math.hypot(other.x - one.x, other.y - one.y)))}));
"""


@contextmanager
def serve(app: Dash) -> Iterator[str]:
    """The application on a free port of loopback -> its URL."""
    server = create_server(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"
    finally:
        server.close()


class Reader:
    """Somebody in front of the browser.

    Attributes:
        driver: selenium's.
        url: of the server.
    """

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url

    def open(self, path: str) -> "Reader":
        """Type an address; wait until the page stands."""
        self.driver.get(self.url + path)
        self.wait(lambda: self.script("return document.querySelector('#page').children.length"))
        if "/front" in path and not self.script("return document.querySelector('.notice')"):
            self.drawn()
        return self

    def drawn(self) -> None:
        """Wait for the front's points."""
        points = "return document.querySelectorAll('#pareto .scatterlayer .point').length"
        self.wait(lambda: self.script(points))

    def script(self, code: str, *arguments: object) -> Any:
        return self.driver.execute_script(code, *arguments)

    def wait(self, condition: Callable[[], Any], seconds: float = WAIT_S) -> Any:
        """Until it holds; its last error or value says why it never did."""
        end, last = time.monotonic() + seconds, None
        while time.monotonic() < end:
            try:
                last = condition()
            except Exception as error:  # an element that is being drawn anew
                last = error
            else:
                if last:
                    return last
            time.sleep(0.05)
        raise AssertionError(f"never came about in {seconds:g} s; last: {last!r}; {self.where()}")

    def becomes(self, get: Callable[[], Any], value: Any) -> None:
        """Wait until something has a value."""
        end, last = time.monotonic() + WAIT_S, None
        while time.monotonic() < end:
            try:
                last = get()
            except Exception as error:
                last = error
            if last == value:
                return
            time.sleep(0.05)
        raise AssertionError(f"{last!r} never became {value!r}; {self.where()}")

    # Looking ------------------------------------------------------------------------------------

    def where(self) -> str:
        """Path and query."""
        return str(self.script("return location.pathname + location.search"))

    def query(self) -> Mapping[str, str]:
        """The address's query."""
        pairs = parse_qs(urlsplit(self.where()).query, keep_blank_values=True)
        return {name: values[-1] for name, values in pairs.items()}

    def text(self, css: str) -> str:
        """What an element says, whether in sight or not."""
        return str(self.script("return document.querySelector(arguments[0]).textContent", css))

    def value(self, identity: str) -> str:
        """Of an input."""
        return str(self.script("return document.getElementById(arguments[0]).value", identity))

    def title(self) -> str:
        """Of the point looked into; "" while there is none."""
        return str(
            self.script("return (document.getElementById('point-title') || {textContent: ''})"
                        ".textContent")
        )  # fmt: skip

    def points(self) -> list[dict[str, Any]]:
        """Drawn points in sight; `alone`: px to the next of another trial."""
        found: list[dict[str, Any]] = self.script(_POINTS)
        return found

    def ranges(self, plot: str = "pareto") -> list[float]:
        """x and y range of a plot."""
        script = """const layout = document.querySelector(
            `#${arguments[0]} .js-plotly-plot`)._fullLayout;
            return [...layout.xaxis.range, ...layout.yaxis.range]"""
        return [float(value) for value in self.script(script, plot)]

    def legend(self) -> str:
        return str(self.script("""return Array.from(document.querySelectorAll(
            '#pareto .legendtext'), (text) => text.textContent).join('\\n')"""))  # fmt: skip

    def complaints(self) -> list[str]:
        """What the browser logged since it was last asked."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]

    # Doing --------------------------------------------------------------------------------------

    def find(self, css: str) -> Any:
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, css)

    def click(self, css: str) -> None:
        """As a hand does: it must be in sight and nothing may cover it."""
        element = self.find(css)
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def click_point(self, name: str) -> None:
        """Move to a drawn point and press."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.by import By

        self.script("document.getElementById('pareto').scrollIntoView({block: 'center'})")
        at = max(
            (point for point in self.points() if point["name"] == name), key=lambda p: p["alone"]
        )["at"]
        paths = self.driver.find_elements(
            By.CSS_SELECTOR, "#pareto .scatterlayer .trace .points path.point"
        )
        ActionChains(self.driver).move_to_element(paths[at]).pause(0.1).click().perform()

    def drag(
        self, start: tuple[float, float], end: tuple[float, float], plot: str = "pareto"
    ) -> None:
        """Over a plot; places as shares of it."""
        from selenium.webdriver.common.action_chains import ActionChains

        pane = self.find(f"#{plot} .nsewdrag")
        self.script("arguments[0].scrollIntoView({block: 'center'})", pane)
        width, height = pane.size["width"], pane.size["height"]

        chain = ActionChains(self.driver, duration=50)
        for step in range(5):
            share = [a + (b - a) * step / 4 - 0.5 for a, b in zip(start, end, strict=True)]
            x, y = round(share[0] * width), round(share[1] * height)
            chain.move_to_element_with_offset(pane, x, y).pause(0.05)
            if step == 0:
                chain.click_and_hold()
        chain.release().perform()

    def type_in(self, identity: str, words: str) -> None:
        """Replace what stands in a field and press Enter."""
        from selenium.webdriver.common.keys import Keys

        field = self.find(f"#{identity}")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(words or Keys.BACKSPACE, Keys.ENTER)

    def press(self, css: str, key: str, times: int = 1) -> None:
        """Keys on an element."""
        self.find(css).send_keys(key * times)

    def choose(self, identity: str, option: str) -> None:
        """One of a drop-down's, by the mouse."""
        from selenium.webdriver.common.by import By

        self.click(f"#{identity}")

        def option_node() -> Any:
            nodes = self.driver.find_elements(By.CSS_SELECTOR, ".dash-dropdown-option")
            node = next((node for node in nodes if node.text == option), None)
            return node is not None and (node.click() or True)

        self.wait(option_node)

    def follow(self, words: str, within: str = "body") -> None:
        """Click a link by its words."""
        from selenium.webdriver.common.by import By

        def link() -> Any:
            found = self.find(within).find_elements(By.LINK_TEXT, words)
            # Clicked in here: a live page may draw the link anew after it was found.
            return bool(found) and (found[0].click() or True)

        self.wait(link)

    def resize(self, device: Mapping[str, Any]) -> None:
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(device))

    def prefer(self, scheme: str) -> None:
        """The colour scheme of the system."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def forget(self) -> None:
        """What the browser keeps of this site, but its copies of scripts."""
        kinds = {"origin": self.url, "storageTypes": "local_storage,cookies"}
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", kinds)

    def save_into(self, folder: Path) -> Callable[[str], Path]:
        """Where downloads go from now on -> waits for one by its name's end."""
        settings = {"behavior": "allow", "downloadPath": str(folder)}
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", settings)

        def saved(suffix: str) -> Path:
            def done() -> Path | None:
                found = [path for path in folder.iterdir() if path.name.endswith(suffix)]
                return found[0] if found and found[0].stat().st_size else None

            path: Path = self.wait(done)
            return path

        return saved
