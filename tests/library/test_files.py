"""Tables in files: small, and read as they were written."""

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from deepmr_utils._files import FINE, FRACTION, read_table, write_table


@pytest.fixture
def table():
    rng, n = np.random.default_rng(0), 600
    numbers = rng.normal(size=n) * 10.0 ** rng.integers(-3, 3, n)
    return pd.DataFrame({
        "name": np.repeat(["a", "b", "a"], n // 3), "number": numbers, "run": 3,
        "twice": np.repeat(numbers[: n // 2], 2), "few": rng.integers(0, 5, n) / 2,
        "missing": np.where(rng.random(n) < 0.5, np.nan, 2.5), "none": np.nan,
        "ends": np.resize([0.0, -0.0, np.inf, -np.inf], n), "is": np.arange(n) % 3 == 0,
        "word": np.where(np.arange(n) < n // 2, "acts", None),
    })  # fmt: skip


def test_tables_come_back_with_as_many_bits_as_are_kept(tmp_path, table):
    path = tmp_path / "table.parquet"
    write_table(path, table)
    again = read_table(path)
    assert again.columns.tolist() == table.columns.tolist()
    for name in table:
        if table[name].dtype == "float64":
            assert again[name].dtype == "float32"
            np.testing.assert_allclose(again[name], table[name], rtol=2.0 ** -(FRACTION + 1))
        else:
            assert again[name].isna().tolist() == table[name].isna().tolist()
            assert again[name].dropna().tolist() == table[name].dropna().tolist()
    write_table(path, table, ["number"])
    fine = read_table(path)
    off = [(t["number"] / table["number"] - 1).abs().max() for t in (again, fine)]
    assert off[1] <= 2.0 ** -(FINE + 1) * 1.1 < off[0]
    write_table(path, table)
    assert (np.signbit(again["ends"]) == np.signbit(table["ends"])).all()
    before = path.read_bytes()
    write_table(path, again)  # what is read is what is stored
    assert path.read_bytes() == before
    write_table(path, table.iloc[:0])
    assert read_table(path).columns.tolist() == table.columns.tolist()


def test_numbers_take_less_than_three_bytes(tmp_path):
    numbers, path = np.random.default_rng(0).normal(size=3000), tmp_path / "table.parquet"
    write_table(path, pd.DataFrame({"number": numbers}))
    size = parquet.read_metadata(path).row_group(0).column(0).total_compressed_size
    assert size < 3 * len(numbers)  # 2 bytes of 16 bits, and less than one of sign and size
