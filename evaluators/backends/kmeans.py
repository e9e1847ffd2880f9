"""One-dimensional k-means with the three initialisations of Deep Compression (arXiv 1510.00149)."""

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
            ranks, "random" (Forgy) draws K of the values.
        rng: for "random".

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
    raise ValueError(f"init must be linear, density or random, but got {init!r}")


def kmeans(
    values: np.ndarray, clusters: int, init: str, rng: np.random.Generator, rounds: int = 50
) -> np.ndarray:
    """Lloyd's algorithm on values sorted once: a round costs K searches, not n * K distances.

    Args:
        values: (n,) any order, n >= 1.
        clusters: K.
        init: see `initial_centroids`.
        rng: for the random initialisation.
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
