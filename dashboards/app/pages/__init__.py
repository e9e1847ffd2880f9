"""One module a page: `layout` builds it, `register` wires its callbacks."""

from dashboards.app.library import Library, Snapshot
from dashboards.app.view import place_of
from spaces import SearchError

__all__ = ["snapshot_at"]


def snapshot_at(library: Library, where: dict[str, str] | None) -> Snapshot | None:
    """The study under the address; None when it cannot be read now (the page's head says so)."""
    try:
        place = place_of(where["pathname"]) if where else None
        return library.get(place.study) if place is not None and place.study else None
    except SearchError:
        return None
