"""One palette, light and dark.

Categories are Okabe and Ito's eight colours, which stay apart under every common colour blindness
(Okabe & Ito 2008, jfly.uni-koeln.de/color); quantities are cividis (Nunez et al. 2018). No meaning
hangs on colour alone: symbols, labels and tables say it again.
"""

from dataclasses import dataclass
from types import MappingProxyType

import plotly.graph_objects as go

__all__ = ["DARK", "LIGHT", "THEMES", "Theme", "css_variables", "template"]

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of one scheme. `report.css` has the same page colours as custom properties.

    Attributes:
        name: "light" or "dark", as in CSS prefers-color-scheme.
        page, panel, ink, muted, grid: background, raised background, text, secondary text, lines.
        link, mark: links; the background of a marked row.
        faint: dominated trials; infeasible: trials over the budget.
        shade: fill of the region outside the budget.
        front: the staircase and lines of "this study"; fill: the area under them.
        limit: budget lines.
        pick: the star.
        categories: for sections, layers and the like.
        strength: colour scale of the heat map, from untouched to strongest; `ink` stays readable
            on all of it.
    """

    name: str
    page: str
    panel: str
    ink: str
    muted: str
    grid: str
    link: str
    mark: str
    faint: str
    infeasible: str
    shade: str
    front: str
    fill: str
    limit: str
    pick: str
    categories: tuple[str, ...]
    strength: tuple[tuple[float, str], ...]


LIGHT = Theme(
    name="light",
    page="#ffffff",
    panel="#f6f8fa",
    ink="#1b1f24",
    muted="#57606a",
    grid="#e3e7ec",
    link="#005a8f",
    mark="#fff4e8",
    faint="#8d99a6",
    infeasible="#a8b0b9",
    shade="rgba(213,94,0,0.07)",
    front="#0072b2",
    fill="rgba(0,114,178,0.12)",
    limit="#d55e00",
    pick="#d55e00",
    categories=(
        "#0072b2",
        "#e69f00",
        "#009e73",
        "#cc79a7",
        "#56b4e9",
        "#d55e00",
        "#f0e442",
        "#57606a",
    ),
    strength=((0.0, "#f4f6f8"), (0.5, "#c3def1"), (1.0, "#6fb1df")),
)

DARK = Theme(
    name="dark",
    page="#14181d",
    panel="#1b2027",
    ink="#e8ecf0",
    muted="#a3adb8",
    grid="#2b323a",
    link="#7cc4f0",
    mark="#33261b",
    faint="#77828e",
    infeasible="#5b6570",
    shade="rgba(230,120,40,0.10)",
    front="#56b4e9",
    fill="rgba(86,180,233,0.15)",
    limit="#ff8c42",
    pick="#ff8c42",
    categories=(
        "#3d9bd8",
        "#e69f00",
        "#1fb98d",
        "#cc79a7",
        "#8fd0f5",
        "#ec7430",
        "#f0e442",
        "#a3adb8",
    ),
    strength=((0.0, "#20262d"), (0.5, "#22485f"), (1.0, "#276a96")),
)

THEMES = MappingProxyType({theme.name: theme for theme in (LIGHT, DARK)})


def template(theme: Theme) -> go.layout.Template:
    """The plotly template of a theme: fonts, axes, legend; nothing that depends on data."""
    axis = {
        "gridcolor": theme.grid,
        "linecolor": theme.muted,
        "tickcolor": theme.muted,
        "tickfont": {"color": theme.muted, "size": 12},
        "title": {"font": {"color": theme.ink, "size": 13}, "standoff": 10},
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": _FONT, "color": theme.ink, "size": 13},
            "paper_bgcolor": theme.page,
            "plot_bgcolor": theme.page,
            "colorway": list(theme.categories),
            "colorscale": {"sequential": "Cividis"},
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"font": {"size": 12}, "bgcolor": "rgba(0,0,0,0)", "itemsizing": "constant"},
            "hoverlabel": {
                "bgcolor": theme.page,
                "bordercolor": theme.muted,
                "font": {"family": _FONT, "color": theme.ink, "size": 12},
                "align": "left",
            },
            "modebar": {
                "bgcolor": "rgba(0,0,0,0)",
                "color": theme.muted,
                "activecolor": theme.front,
            },
            "margin": {"l": 8, "r": 12, "t": 40, "b": 8},
        }
    )


def css_variables(theme: Theme) -> str:
    """A theme's page colours as custom properties, for `<html data-theme="...">`."""
    colours = {
        "page": theme.page,
        "panel": theme.panel,
        "ink": theme.ink,
        "muted": theme.muted,
        "line": theme.grid,
        "link": theme.link,
        "pick": theme.pick,
        "mark": theme.mark,
    }
    body = " ".join(f"--{name}: {colour};" for name, colour in colours.items())
    return f'[data-theme="{theme.name}"] {{ color-scheme: {theme.name}; {body} }}'
