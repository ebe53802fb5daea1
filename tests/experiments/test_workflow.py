"""The workflow: a cluster gives what one machine gives, and only what is missing is run."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from deepmr_utils.mutagenesis import saturation_mutagenesis
from experiments.__main__ import main
from experiments.cooperativity import rounds
from experiments.parameter_files import read_parameters, settings_key

ROOT = Path(__file__).parents[2]
TINY = {
    "n_train": 150, "n_augmented": 0, "n_test": 40, "effect_ratio": 3.0, "n_members": 2,
    "epochs": 1, "max_excess": 1000000.0, "scenarios": ["none"], "rounds": 3,
}  # fmt: skip
DEMO = {
    "n_windows": 190, "length": 160, "margin": 10, "n_members": 2, "filters": 8, "layers": 2,
    "epochs": 1, "n_analysed": 12, "chains": ["motif"], "kept": ["motif", "direct"],
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def configure(folder, **studies):
    """A configuration of studies, from their parameters; returns its path."""
    config = yaml.safe_load((ROOT / "workflow" / "config.yaml").read_text())
    for name, study in studies.items():
        (folder / f"{name}.yml").write_text(yaml.safe_dump(study["parameters"]))
        study["parameters"] = str(folder / f"{name}.yml")
    config |= {"results": "results", "studies": studies, "notebooks": {}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def snakemake(folder, *arguments):
    """A process that runs the workflow in a folder of its own, and its processes' group."""
    command = [sys.executable, "-m", "snakemake", "-s", ROOT / "workflow" / "Snakefile",
               "--configfile", folder / "config.yaml", "--directory", folder, *arguments]  # fmt: skip
    return subprocess.Popen(
        list(map(str, command)), cwd=folder, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finished(folder, *arguments):
    process = snakemake(folder, *arguments)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    return out


def planned(folder, target="units"):
    """Outputs that a run would make."""
    out = finished(folder, "--cores", "1", "--dry-run", target)
    found = re.findall(r"^    output: (.*)$", out.replace(" (update)", ""), re.MULTILINE)
    return {name for line in found for name in line.split(", ")}


def simulation(**changes):
    return {"study": "simulation", "parameters": {**TINY, **changes}}


def comparable(directory):
    """Tables byte by byte; records but for the time that they took."""
    held = {}
    for path in sorted(directory.rglob("round-*")):
        name = path.relative_to(directory).as_posix()
        if path.suffix == ".json":
            held[name] = {k: v for k, v in json.loads(path.read_text()).items() if k != "seconds"}
        else:
            held[name] = path.read_bytes()
    return held


def test_killed_on_one_machine_and_finished_by_a_cluster(tmp_path):
    """SIGKILL after the first round; the rest by jobs, submitted to something like a cluster."""
    configure(tmp_path, simulation=simulation())
    values = read_parameters(tmp_path / "simulation.yml", ROOT / "notebooks" / "simulation.ipynb")
    store = tmp_path / "results" / f"simulation-{settings_key(simulation()['parameters'])}"
    process = snakemake(tmp_path, "--cores", "1", "units")
    for _ in range(3000):
        if list(store.glob("none/round-*.json")) or process.poll() is not None:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    there = {path: path.read_bytes() for path in store.glob("none/round-*.json")}
    assert 1 <= len(there) < 3
    finished(tmp_path, "--unlock")
    out = finished(
        tmp_path, "--executor", "cluster-generic", "--cluster-generic-submit-cmd",
        ROOT / "tests" / "fake_cluster.sh", "--jobs", "2", "--latency-wait", "20",
        "--seconds-between-status-checks", "1", "units",
    )  # fmt: skip
    assert "external jobid" in out
    assert len(list(store.glob("none/round-*.json"))) == 3
    for path, content in there.items():  # with its seconds: it was not run again
        assert path.read_bytes() == content
    rounds.run_rounds(rounds.simulation_settings(values), ["none"], 3, tmp_path / "alone")
    assert comparable(store) == comparable(tmp_path / "alone")
    assert len(comparable(store)) == 6
    configure(tmp_path, simulation=simulation(rounds=4))  # one more: it alone is planned
    key = store.relative_to(tmp_path)
    assert planned(tmp_path) == {f"{key}/none/round-003.json"}


def test_what_the_commands_store_is_what_the_workflow_asks_for(tmp_path, monkeypatch):
    """Every kind of study, then parameters that change: what they touch is planned, no more."""
    monkeypatch.chdir(tmp_path)
    sweep = {**TINY, "methods": ["ivw"], "analyses": {"n_members": [3]}, "training": {"epochs": [2]},
             "training_scenarios": ["none", "both"], "rounds": 1}  # fmt: skip
    demo = {"sets": {"one": {**DEMO, "graphs": ["empty"], "runs": 1},
                     "two": {**DEMO, "graphs": ["empty"], "runs": 1, "seed": 1}}}  # fmt: skip
    chromatin = {"runs": 1, "n_train": 300, "epochs": 1, "n_test": 60, "n_windows": 2, "n_draws": 2}
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv1d(4, 3, 3), torch.nn.Flatten(), torch.nn.Linear(18, 2)
    ).eval()
    x = np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(0, 4, (6, 8))]
    x = x.transpose(0, 2, 1).copy()
    saturation_mutagenesis([network, network], x, store="effects.zarr")
    atlas = {"effects": "effects.zarr", "rule": "wald", "threshold": 0.0, "shares": 2}

    def studies():
        return {
            "sweep": {"study": "sweeps", "parameters": sweep},
            "demo": {"study": "bpnet", "parameters": demo},
            "chromatin": {"study": "deepsea", "parameters": chromatin},
            "atlas": {"study": "atlas", "parameters": atlas},
        }

    configure(tmp_path, **studies())
    wanted = planned(tmp_path)
    stores = {name.split("/")[1].rpartition("-")[0] for name in wanted}
    assert stores == {"sweep", "demo", "chromatin", "atlas"}
    assert {tuple(n.split("/")[2:]) for n in wanted if n.startswith("results/sweep")} == {
        (setting, scenario, "round-000.csv") for setting, scenario in
        [("baseline", "none"), ("n-members-3", "none"), ("epochs-2", "none"), ("baseline", "both"),
         ("epochs-2", "both")]
    }  # fmt: skip

    def where(study, part=""):
        return next(n for n in wanted if n.startswith(f"results/{study}-") and part in n)

    def folder(study, part=""):
        return "/".join(where(study, part).split("/")[:2])

    main(["sweeps", "sweep.yml", "--directory", folder("sweep")])
    for name in ("one", "two"):
        one = ["--directory", folder("demo", f"/{name}/"), "--unit", f"{name}/empty/run-000"]
        main(["bpnet", "demo.yml", *one])
    main(["deepsea", "chromatin.yml", "--directory", folder("chromatin"), "--unit", "run-000"])
    main(["atlas", "atlas.yml", "--directory", folder("atlas")])
    assert len(pd.read_parquet(f"{folder('atlas')}/atlas.parquet")) == 4
    assert all(Path(name).exists() for name in wanted)
    assert not planned(tmp_path)  # what is finished is not run again

    sweep = {**sweep, "analyses": {"n_members": [3], "threshold": [2.0]}}
    demo = {"sets": {**demo["sets"], "two": {**demo["sets"]["two"], "epochs": 2}}}
    configure(tmp_path, **studies())
    touched = planned(tmp_path)
    assert {re.sub(r"-[0-9a-f]{8}", "", name) for name in touched} == {
        "results/demo/two/empty/run-000.json",
        # of one ensemble, of which what is there is left as it is
        *(f"results/sweep/{s}/none/round-000.csv" for s in ("baseline", "n-members-3", "threshold-2.0")),
    }  # fmt: skip
