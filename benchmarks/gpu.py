"""Benchmarks on a GPU in ten minutes and without a network: the engine table, then Cat-vs-Dog at the paper's size.

    python benchmarks/gpu.py [--data DIR] [--device cuda] [--quick]

It runs benchmarks/gramian.py on the device. If DIR holds cifar10/*.parquet, it then runs the search `cat_vs_dog` with
WideResNet-22-4 on whole images (ATTITTUD, section 5): four eta settings, four baselines and three fresh seeds, or as
many of these as fit in seven minutes. `--quick` uses a small network and few steps, to check that everything runs.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
RAYSEARCH = str(Path(sys.executable).with_name("raysearch"))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path)
    options.add_argument("--device", default="cuda")
    options.add_argument("--quick", action="store_true")
    arguments = options.parse_args()
    sizes = ["--m", "16"] if arguments.quick else ["--m", "32", "64", "128"]
    table = [sys.executable, str(FOLDER / "gramian.py"), "--device", arguments.device, "--k", "10", *sizes]
    subprocess.run([*table, *(["--layers", "2"] if arguments.quick else [])], check=True)
    if arguments.data is None:
        print("\nno --data: Cat-vs-Dog is skipped")
        return
    changes = {"confirm.seeds": "[101, 102, 103]", "budget.seconds": 420}
    if arguments.device == "cuda":
        changes |= {"resources.gpus": 0.5, "resources.cpus": 1, "settings.precision": "bfloat16"}
    if arguments.quick:
        changes |= {
            "settings.steps": 4,
            "settings.finetune_steps": 2,
            "settings.eval_every": 4,
            "task.dev_per_class": 20,
        }
        changes |= {"baselines.pretrain.settings.pretrain_steps": 4, "baselines.none.settings.steps": 4}
        changes |= {"confirm.seeds": "[101]", "task.size": 16}
    else:
        changes |= {"model": "wrn_22_4", "task.size": "null"}
    with tempfile.TemporaryDirectory() as runs:
        launch = [RAYSEARCH, "launch", "cat_vs_dog", "--data", str(arguments.data)]
        launch += ["--runs", runs]
        for key, value in changes.items():
            launch += ["--set", f"{key}={value}"]
        subprocess.run(launch, check=True)
        analyze = [RAYSEARCH, "analyze", "cat_vs_dog", "arms", "--runs", runs]
        subprocess.run(analyze, check=True)


if __name__ == "__main__":
    main()
