#!/bin/bash
# sbatch deploy/slurm.sh [arguments of `search run`]
# A Ray cluster inside one Slurm job, and the study in it. If the job's time ends, send it again
# with the same STUDY: what finished is in the record, and the study goes on.
#
# Change: partition, nodes, cores; and SEARCH_ENV, a virtual environment that all nodes see, with
# this project installed: pip install -c constraints.txt '.[ray]'
#SBATCH --job-name=compression-search
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
#SBATCH --signal=B:INT@120
#SBATCH --output=search-%j.log
set -euo pipefail

SEARCH_ENV=${SEARCH_ENV:-$HOME/compression-search}
RUNS=${RUNS:-$SLURM_SUBMIT_DIR/search-runs}
STUDY=${STUDY:-slurm-$SLURM_JOB_ID}
PORT=$((20000 + SLURM_JOB_ID % 20000))
export PATH=$SEARCH_ENV/bin:$PATH RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
node() { srun --nodes=1 --ntasks=1 --nodelist="$1" --overlap "${@:2}"; }

# `ray start --block` ends with its srun, so the job leaves nothing behind.
node "$head" ray start --head --port="$PORT" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
sleep 15
for worker in "${nodes[@]:1}"; do
    node "$worker" ray start --address="$head:$PORT" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
done
sleep 10

if [ -e "$RUNS/$STUDY" ]; then
    study=(resume "$STUDY")
else
    study=(run "$@" --study "$STUDY")
fi
# In the background and waited for, so that Slurm's signal before the end reaches it: like Ctrl-C,
# it then prints the front so far.
node "$head" search "${study[@]}" --storage "$RUNS" --engine ray --ray-address "$head:$PORT" &
search=$!
trap 'kill -INT $search' INT
code=0
wait $search || code=$?
if kill -0 $search 2>/dev/null; then
    code=0
    wait $search || code=$?
fi
exit $code
