"""Studies whose result is a table: what it has is finished, and the rest is computed beside it."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from experiments.__main__ import main
from experiments.binding import one_genome
from experiments.cooperativity import shared_error
from experiments.parameter_files import read_parameters
from experiments.study import make_settings, open_study, run_units, stored_settings, table_units

BOOK = Path(__file__).parents[2] / "book"


@pytest.mark.parametrize(
    ("study", "folder"), [("shared_error", "results"), ("own_responses", "results/bpnet")]
)
def test_a_stored_table_is_finished_and_stays_as_it_is(tmp_path, study, folder):
    stored = BOOK / folder / f"{study}.csv"
    shutil.copy(stored, tmp_path)
    file = str(BOOK / "parameters" / f"{study}.yml")
    main([study, file, "--directory", str(tmp_path)])
    assert (tmp_path / stored.name).read_bytes() == stored.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [stored.name]
    # asked for by name, a unit writes the rows that the table has
    name = next(iter(open_study(study, file)[0]))
    main([study, file, "--directory", str(tmp_path), "--unit", name])
    rows = pd.read_csv(tmp_path / study / f"{name}.csv")
    every = pd.read_csv(stored)
    assert len(every.merge(rows)) == len(rows)
    assert len(rows) == {"shared_error": 2, "own_responses": 16}[study]


def test_missing_rows_are_computed_once_and_put_in_order(tmp_path):
    computed = []

    def rows(letter, number):
        computed.append((letter, number))
        return pd.DataFrame({"letter": letter, "number": number, "value": [0.1 * number, 1.0]})

    pd.DataFrame({"letter": ["b"], "number": [1], "value": [9.0]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    keys = [("b", 1), ("b", 0), ("a", 3)]
    units = table_units("t", ["letter", "number"], keys, rows)
    run_units(units, tmp_path)
    run_units(units, tmp_path)
    assert computed == [("b", 0), ("a", 3)]
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["letter"].tolist() == ["a", "a", "b", "b", "b"]
    assert table["value"].tolist() == pytest.approx([0.3, 1.0, 0.0, 1.0, 9.0])


def test_the_studies_train_what_the_book_says():
    values = read_parameters(BOOK / "parameters" / "own_responses.yml")
    graphs = stored_settings(one_genome.Settings, BOOK / "results" / "bpnet" / "graphs")
    assert make_settings(one_genome.Settings, values) == graphs
    base = shared_error.simulation_settings({"n_train": 100, "epochs": 8, "seed": 5})
    arms = shared_error.arms(base)
    assert list(arms) == ["same data", "own data", "4 x data", "24 epochs"]
    larger = arms["4 x data"]
    assert (larger.parameters.n_train, larger.epochs, larger.seed) == (400, 2, 6)
