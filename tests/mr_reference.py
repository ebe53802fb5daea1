"""Reference data sets and values of R, see reference/mr/README.md."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent / "reference" / "mr"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
META_EXPECTED = json.loads((FOLDER / "meta_expected.json").read_text())
NAMES = list(EXPECTED)


def _table(name, columns):
    table = pd.read_csv(FOLDER / name, dtype=str).astype(dict.fromkeys(columns, float))
    return {key: tuple(g[columns].to_numpy().T) for key, g in table.groupby("dataset", sort=False)}


DATASETS = _table("datasets.csv", ["bx", "bxse", "by", "byse"])
META_DATASETS = _table("meta_datasets.csv", ["TE", "seTE"])


def padded(names=NAMES):
    """All data sets as one padded call: four arrays (S, V)."""
    width = max(len(DATASETS[name][0]) for name in names)
    arrays = np.full((4, len(names), width), np.nan)
    for i, name in enumerate(names):
        arrays[:, i, : len(DATASETS[name][0])] = DATASETS[name]
    return arrays


def column(key, field, names=NAMES):
    """One field of one reference method over data sets; NaN where R has none."""
    values = [EXPECTED[name].get(key, {}).get(field) for name in names]
    return np.array([np.nan if v is None else float(v) for v in values])
