"""Ray Tune: our proposers as a `ray.tune.search.Searcher`, and a study under a Tuner.

    searcher = PolicySearcher.of("my_net.py:workload", target="m1", budget_kb=250)
    tune.Tuner(trainable, tune_config=tune.TuneConfig(search_alg=searcher, num_samples=40)).fit()
    searcher.front().members

Needs the extra `tune`.
"""

from search.tune.evaluation import Evaluation
from search.tune.searcher import PolicySearcher

__all__ = ["Evaluation", "PolicySearcher"]
