#!/bin/bash
# A search on the nodes of a Slurm allocation: sbatch slurm.sh FILE [RUNS]
#
# One Ray node a host, and the driver on the first one. Submit it again to resume the search. docs/guide/clusters.md
# explains it.
#SBATCH --job-name=raysearch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=B:INT@120
# For GPUs: #SBATCH --gpus-per-node=4, and `resources: {gpus: 1}` in FILE.
set -euo pipefail

file=${1:?"usage: sbatch slurm.sh FILE [RUNS]"}
runs=${2:-$SLURM_SUBMIT_DIR/runs} # on a file system that all nodes see

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
port=$((30000 + SLURM_JOB_ID % 10000)) # of this job alone, should a node be shared

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
on_head=(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head")
# Not `hostname --ip-address`, which is a loopback address on Debian and Ubuntu.
address=$("${on_head[@]}" python3 -c "import ray; print(ray.util.get_node_ip_address())")
size=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --block)

"${on_head[@]}" ray start --head --node-ip-address="$address" --port="$port" "${size[@]}" &
until "${on_head[@]}" ray health-check --address "$address:$port" > /dev/null 2>&1; do
    sleep 2
done
if ((SLURM_JOB_NUM_NODES > 1)); then
    others=$((SLURM_JOB_NUM_NODES - 1))
    srun --overlap --nodes="$others" --ntasks="$others" --exclude="$head" \
        ray start --address="$address:$port" "${size[@]}" &
fi

# Groups start on hosts that join later too, so nothing waits for the others here.
"${on_head[@]}" raysearch launch "$file" --address "$address:$port" --runs "$runs" &
driver=$!
trap 'kill -INT "$driver"' INT # two minutes before the end: the search is interrupted in order
code=0
wait "$driver" || code=$?
if kill -0 "$driver" 2> /dev/null; then # the first wait was ended by the signal
    code=0
    wait "$driver" || code=$?
fi
exit "$code"
