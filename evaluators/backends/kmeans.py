"""One-dimensional k-means.

Its beginnings are the three of Deep Compression (arXiv 1510.00149, section 3.2) and k-means++
(Arthur and Vassilvitskii 2007).
"""

import numpy as np

__all__ = ["initial_centroids", "kmeans"]


def initial_centroids(
    ordered: np.ndarray, clusters: int, init: str, rng: np.random.Generator
) -> np.ndarray:
    """(clusters,) ascending starting points.

    Args:
        ordered: (n,) ascending values, n >= 1.
        clusters: K.
        init: "linear" spaces them evenly from min to max, "density" evenly over the values'
            ranks, "random" (Forgy) draws K of the values, "k-means++" draws each in proportion to
            its squared distance from the nearest one drawn before.
        rng: for the drawn ones.

    Raises:
        ValueError: another `init`.
    """
    match init:
        case "linear":
            return np.linspace(float(ordered[0]), float(ordered[-1]), clusters)
        case "density":
            ranks = (np.arange(clusters) + 0.5) / clusters
            return np.asarray(np.quantile(ordered, ranks))
        case "random":
            chosen = rng.choice(len(ordered), size=clusters, replace=len(ordered) < clusters)
            drawn: np.ndarray = np.sort(ordered[chosen])
            return drawn
        case "k-means++":
            return _spread(ordered, clusters, rng)
    raise ValueError(f"init must be linear, density, random or k-means++, but got {init!r}")


def _spread(ordered: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
    drawn = [ordered[rng.integers(len(ordered))]]
    distances = np.square(ordered - drawn[0])
    while len(drawn) < clusters:
        sums = np.cumsum(distances)
        # No value is left apart from those drawn: another of the same changes nothing.
        at = min(int(np.searchsorted(sums, rng.random() * sums[-1], "right")), len(ordered) - 1)
        drawn.append(ordered[at])
        distances = np.minimum(distances, np.square(ordered - ordered[at]))
    return np.sort(drawn)


def kmeans(
    values: np.ndarray, clusters: int, init: str, rng: np.random.Generator, rounds: int = 50
) -> np.ndarray:
    """Lloyd's algorithm on values sorted once: a round costs K searches, not n * K distances.

    Args:
        values: (n,) any order, n >= 1.
        clusters: K.
        init: see `initial_centroids`.
        rng: for the beginnings that are drawn.
        rounds: at most.

    Returns:
        (K,) ascending centroids; a cluster that holds nothing stays where it was.
    """
    ordered = np.sort(values.astype(np.float64))
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    centroids = initial_centroids(ordered, clusters, init, rng)
    for _ in range(rounds):
        cuts = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        edges = np.concatenate(([0], cuts, [len(ordered)]))
        counts = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, centroids)
        moved.sort()
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids
