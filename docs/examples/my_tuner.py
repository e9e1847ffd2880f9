import sys
from pathlib import Path

from ray import tune

from search.tune import PolicySearcher


def trainable(config, evaluation):
    report = evaluation(config)  # compress, write, decode, score, time
    tune.report({**report, "size_kb": report["size_bytes"] / 1000})


if __name__ == "__main__":
    searcher = PolicySearcher.of("my_net.py:workload", budget_kb=2, max_drop=10)
    work = tune.with_parameters(trainable, evaluation=searcher.evaluation)
    logs = Path("tune-logs").resolve()
    if tune.Tuner.can_restore(str(logs / "mine")):  # killed? run this again
        tuner = tune.Tuner.restore(str(logs / "mine"), trainable=work)
    else:
        tuner = tune.Tuner(
            work,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=int(sys.argv[1]),
                max_concurrent_trials=2,
                reuse_actors=True,  # a worker process loads the network once
            ),
            run_config=tune.RunConfig(name="mine", storage_path=str(logs)),
        )
    results = tuner.fit()
    print(results.get_dataframe()[["accuracy", "size_kb"]], "on the front", sep="\n")
    for trial in searcher.front(results).members:
        print(trial.policy.digest, trial.measurement.metric, trial.measurement.size_bytes)
