"""Sequences of the simulation: embedded motifs on a random background, and their mutants."""

import numpy as np
import pandas as pd

from deepmr_utils.sequences import ALPHABET, decode, encode

from .parameters import FEATURES, Parameters

STARTS = ["exposure_start", "outcome_start", "confounder_start"]


def simulate_sequences(
    parameters: Parameters, n: int, rng: np.random.Generator, prefix: str = "sequence"
) -> pd.DataFrame:
    """Draw sequences with embedded motifs.

    Parameters
    ----------
    parameters : Parameters
    n : int
        Number of sequences.
    rng : np.random.Generator
    prefix : str
        Sequence identifiers are ``prefix-0``, ``prefix-1``, ...

    Returns
    -------
    pd.DataFrame
        ``sequence_id, sequence, exposure_start, outcome_start, confounder_start``.

    Notes
    -----
    An i.i.d. background; with probability ``p_motif`` one of exposure motif, outcome motif or both,
    each instance drawn from the motif's matrix. The gap of a pair is uniform on [widest motif, what
    fits], positions are uniform over where the embedding fits, and a confounder motif never
    overlaps another.
    """
    motifs, length = parameters.motifs, parameters.length
    codes = _draw_bases(np.asarray(parameters.background), (n, length), rng)
    kind = np.where(rng.random(n) < parameters.p_motif, rng.integers(1, 4, n), 0)
    has = {"exposure": kind % 2 == 1, "outcome": kind >= 2}  # 1 exposure, 2 outcome, 3 both
    width = {name: motif.width for name, motif in motifs.items()}

    gap = rng.integers(
        parameters.min_gap, length - width["exposure"] - width["outcome"] + 1, size=n
    )
    both = kind == 3
    span = has["exposure"] * width["exposure"] + has["outcome"] * width["outcome"] + both * gap
    start = rng.integers(0, length - span + 1)
    starts = {
        "exposure": np.where(has["exposure"], start, -1),
        "outcome": np.where(has["outcome"], start + both * (width["exposure"] + gap), -1),
        "confounder": np.full(n, -1),
    }
    if "confounder" in motifs:
        free = np.ones((n, length - width["confounder"] + 1), dtype=bool)
        offsets = np.arange(free.shape[1])
        for name in FEATURES:
            left, right = starts[name] - width["confounder"], starts[name] + width[name]
            clash = (offsets > left[:, None]) & (offsets < right[:, None])
            free &= ~(clash & has[name][:, None])
        place = np.where(free, rng.random(free.shape), -1).argmax(1)  # uniform over what is free
        has["confounder"] = rng.random(n) < parameters.p_confounder
        starts["confounder"] = np.where(has["confounder"], place, -1)

    for name, motif in motifs.items():
        rows = np.flatnonzero(has[name])
        columns = starts[name][rows, None] + np.arange(motif.width)
        codes[rows[:, None], columns] = _draw_bases(
            motif.probabilities, (len(rows), motif.width), rng
        )
    table = pd.DataFrame({
        "sequence_id": [f"{prefix}-{i}" for i in range(n)],
        "sequence": decode(codes),
    })  # fmt: skip
    for name, values in starts.items():
        table[f"{name}_start"] = pd.arrays.IntegerArray(values, values < 0)
    return table


def augment(
    sequences: pd.DataFrame, parameters: Parameters, n: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Mutate n of the sequences, once inside each of their own embedded motifs.

    A sequence without an embedded motif is mutated once, anywhere. The new identifiers are
    ``<sequence_id>-mutant``; motif starts are kept. The result is unlabelled.
    """
    if n > len(sequences):
        raise ValueError(
            f"cannot augment {n} of {len(sequences)} sequences: n_augmented is too large"
        )
    rows = sequences.iloc[rng.choice(len(sequences), n, replace=False)]
    table = rows[["sequence_id", "sequence", *STARTS]].reset_index(drop=True)
    table["sequence_id"] += "-mutant"
    codes = encode(table["sequence"]).copy()
    every = np.arange(n)

    def mutate(which: np.ndarray, positions: np.ndarray) -> None:
        shift = rng.integers(1, len(ALPHABET), n)[which]
        codes[which, positions] = (codes[which, positions] + shift) % len(ALPHABET)

    embedded = table[STARTS].notna().any(axis=1).to_numpy()
    mutate(every[~embedded], rng.integers(0, parameters.length, n)[~embedded])
    for name, motif in parameters.motifs.items():
        start = table[f"{name}_start"].to_numpy(np.int64, na_value=-1)
        which = every[start >= 0]
        mutate(which, start[which] + rng.integers(0, motif.width, n)[which])
    table["sequence"] = decode(codes)
    return table


def _draw_bases(
    probabilities: np.ndarray, shape: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Base codes of a shape, by inversion of the cdf over A, C, G, T ((4,) or a row a column)."""
    thresholds = np.cumsum(probabilities, axis=-1)[..., :-1]
    uniform = rng.random(shape)
    return sum((uniform >= thresholds[..., k]).astype(np.uint8) for k in range(3))
