import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import xarray as xr

from deepmr_utils import deep_mr, null, sequences
from deepmr_utils.effects import (
    EFFECT_COLUMNS,
    effects_table,
    export_twosamplemr,
    import_effects,
    load_effects,
    save_effects,
)
from deepmr_utils.instruments import select_instruments
from deepmr_utils.mr import local_mr
from deepmr_utils.mutagenesis import saturation_mutagenesis
from experiments.cooperativity.network import SimulationCNN

TABLE = pd.DataFrame({
    "sequence_id": ["s1", "s1", "s1", "s1", "s2", "s2"],
    "position": [0, 0, 2, 2, 1, 1],
    "reference": list("AAGGTT"),
    "alternate": list("CCTTAA"),
    "feature": ["x", "y"] * 3,
    "effect": [0.5, -0.5, 1.0, 2.0, 0.25, np.nan],
    "se": [0.1, 0.2, 0.0, 0.4, 0.5, np.nan],
})  # fmt: skip
SEQUENCES = pd.DataFrame({
    "sequence_id": ["s0", "s2", "s1"], "sequence": ["TTTT", "ctag", "ANGT"],
    "chrom": ["chr1", "chr1", "chrX"], "start": [-2, 5, 9], "end": [2, 9, 13],
    "strand": ["+", "-", "+"],
})  # fmt: skip


@pytest.fixture(scope="module")
def effects():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGT"), 24)) for _ in range(3)]
    texts[1] = texts[1][:5] + "N" + texts[1][6:]
    model = SimulationCNN(24, channels=4, hidden=5)
    members = [null.untrained(model, seed) for seed in range(4)]
    x = sequences.one_hot(texts, torch.float64)
    members = [member.double() for member in members]
    ids = ["peak-b", "peak-a", "peak:c"]
    return saturation_mutagenesis(members, x, sequence_ids=ids, device="cpu"), texts


def tidy(effects):
    data = effects[["effect", "se"]].to_dataframe().reset_index().dropna(subset=["effect"])
    return data.rename(columns={"sequence": "sequence_id", "allele": "alternate"})


def test_import_by_hand():
    effects = import_effects(TABLE)
    assert effects["effect"].shape == (2, 3, 4, 2)
    assert effects["sequence"].to_numpy().tolist() == ["s1", "s2"]
    assert effects["feature"].to_numpy().tolist() == ["x", "y"]
    assert effects["reference"].to_numpy().tolist() == [["A", "N", "G"], ["N", "T", "N"]]
    assert effects["effect"].count() == 5
    for row in TABLE.itertuples():
        cell = effects.sel(
            sequence=row.sequence_id, position=row.position, allele=row.alternate,
            feature=row.feature,
        )  # fmt: skip
        np.testing.assert_equal((cell["effect"].item(), cell["se"].item()), (row.effect, row.se))
    assert effects["reference_prediction"].isnull().all()
    assert "n_members" not in effects.attrs


def test_sequences_say_what_was_analysed():
    effects = import_effects(TABLE, SEQUENCES)
    assert effects["sequence"].to_numpy().tolist() == ["s0", "s2", "s1"]
    assert ["".join(row) for row in effects["reference"].to_numpy()] == ["TTTT", "CTAG", "ANGT"]
    assert effects["chrom"].to_numpy().tolist() == ["chr1", "chr1", "chrX"]
    assert effects["start"].to_numpy().tolist() == [-2, 5, 9]
    assert effects["strand"].to_numpy().tolist() == ["+", "-", "+"]
    assert effects["effect"].sel(sequence="s0").isnull().all()
    assert effects["effect"].sel(sequence="s2", position=1, allele="A", feature="x") == 0.25


def test_import_gives_back_what_saturation_mutagenesis_gave(effects, tmp_path):
    effects, texts = effects
    table = tidy(effects).sample(frac=1, random_state=1)
    prediction = effects["reference_prediction"].to_series().rename("reference_prediction")
    prediction.index.names = ["sequence_id", "feature"]
    table = table.join(prediction, on=["sequence_id", "feature"])
    ids = effects["sequence"].to_numpy()
    where = pd.DataFrame({"sequence_id": ids, "sequence": texts})
    imported = import_effects(table, where, n_members=4)
    imported = imported.sel(feature=effects["feature"].to_numpy())
    for name in ("effect", "se", "reference_prediction", "reference"):
        xr.testing.assert_equal(imported[name], effects[name])
        assert imported[name].dims == effects[name].dims
    common = {
        "schema_version", "model_hash", "dropout_seed", "calibration", "versions", "n_members"
    }  # fmt: skip
    assert set(imported.attrs) == common
    assert common < set(effects.attrs)
    assert imported.attrs["schema_version"] == effects.attrs["schema_version"]
    save_effects(imported, tmp_path / "effects.zarr")
    xr.testing.assert_identical(load_effects(tmp_path / "effects.zarr"), imported)
    mine, theirs = (select_instruments(e, "exposure", "outcome") for e in (imported, effects))
    pd.testing.assert_frame_equal(mine, theirs)
    np.testing.assert_allclose(mine["sd_exposure"], 2 * mine["se_exposure"])
    given = select_instruments(import_effects(table, where), "exposure", "outcome")
    np.testing.assert_array_equal(given["se_exposure"], mine["sd_exposure"])
    with pytest.raises(ValueError, match="n_members must be a whole number of at least 2; got 1"):
        import_effects(table, where, n_members=1)


def test_a_csv_reads_as_well_and_lower_case_and_order_do_not_matter(tmp_path):
    table = TABLE.assign(reference=TABLE["reference"].str.lower())
    table.to_csv(tmp_path / "effects.csv", index=False)
    imported = import_effects(pd.read_csv(tmp_path / "effects.csv"))
    xr.testing.assert_identical(imported, import_effects(TABLE))
    named = TABLE.replace({"x": "NA", "s1": "01"})
    named.to_csv(tmp_path / "named.csv", index=False)
    text = {"sequence_id": str, "feature": str}
    read = pd.read_csv(tmp_path / "named.csv", dtype=text, keep_default_na=False)
    xr.testing.assert_identical(import_effects(read), import_effects(named))
    assert import_effects(read)["feature"].to_numpy().tolist() == ["NA", "y"]
    nullable = TABLE.convert_dtypes().astype({"sequence_id": "category", "effect": "Float64"})
    xr.testing.assert_identical(import_effects(nullable), imported)
    backward = import_effects(TABLE.iloc[::-1], SEQUENCES)
    forward = import_effects(TABLE, SEQUENCES)
    xr.testing.assert_identical(backward.sel(feature=["x", "y"]), forward)


def changed(row, **values):
    table = TABLE.astype(dict.fromkeys(values, object))
    for name, value in values.items():
        table.loc[row, name] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.drop(columns=["effect"]), r"needs the columns .*; got .* add \['effect'\]"),
        (TABLE.iloc[:0], r"got .* and 0 rows: add rows"),
        (changed(1, feature=None), "every row needs a feature; row 1 has feature nan|None"),
        (changed(1, sequence_id=None), "every row needs a sequence_id; row 1"),
        (changed(2, position=-1), r"position must be a whole number, 0 or more \(0-based\); row 2 has position -1"),
        (changed(2, position=1.5), "position must be a whole number.*; row 2 has position 1.5"),
        (changed(2, position="x"), "position must be a whole number.*; row 2 has position x"),
        (changed([0, 1], position=155_270_559), "position must count within the sequence; got 155270559 in a table of 2 sequences: subtract the start"),
        (changed(3, reference="N"), "reference must be one of A, C, G, T; row 3 has reference N"),
        (changed(3, alternate="R"), "alternate must be one of A, C, G, T; row 3 has alternate R"),
        (changed(3, alternate="AC"), "alternate must be one of A, C, G, T; row 3 has alternate AC"),
        (changed(3, alternate="G"), "reference and alternate must differ; row 3 has reference G, alternate G"),
        (pd.concat([TABLE, TABLE[1:2]]), "a substitution may be listed once a feature; row 6 has sequence_id s1, position 0, alternate C, feature y"),
        (changed(0, effect="big"), "effect must hold numbers; got 'big' at row 0"),
        (changed(0, effect=np.inf), "effect must be finite; row 0 has effect inf"),
        (changed(0, se=-np.inf), "se must be finite; row 0 has se -inf"),
        (changed(0, se=-0.1), "se must be 0 or more; row 0 has se -0.1"),
        (changed(0, se=np.nan), "effect and se must be NaN together; row 0 has effect 0.5, se nan"),
        (changed(5, se=0.1), "effect and se must be NaN together; row 5 has effect nan, se 0.1"),
        (TABLE.drop(index=3), r"every substitution needs all features \(x, y\); row 2 has sequence_id s1, position 2, alternate T"),
        (changed(5, feature="z"), r"every substitution needs all features \(x, y, z\); row 0"),
        (TABLE.assign(reference_prediction=[1, 2, 1, 3, 4, 5]), "reference_prediction must be the same for all substitutions of a sequence; row 3 has sequence_id s1, feature y, reference_prediction 3"),
        (TABLE.assign(reference_prediction=[1, 2, 1, np.nan, 4, 5]), "reference_prediction must be the same .* row 3"),
        (TABLE.assign(reference_prediction=[1, np.inf, 1, 2, 4, 5]), "reference_prediction must be finite; row 1"),
        (pd.concat([TABLE, TABLE[:2].assign(reference="T", alternate="G")]), r"reference must be the base found in another row \(are positions 0-based, on the same strand\?\); row 0 has sequence_id s1, position 0, reference A, found T"),
    ],
)  # fmt: skip
def test_bad_tables_raise(table, message):
    with pytest.raises(ValueError, match=message):
        import_effects(table)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        (SEQUENCES.iloc[:2], "sequences has 2 of 4 bases, and no such place; row 0 has sequence_id s1, position 0"),
        (SEQUENCES.assign(sequence=["TT", "CT", "AN"]), "sequences has 3 of 2 bases, and no such place; row 2 has sequence_id s1, position 2"),
        (SEQUENCES.assign(sequence=["TTTT", "CTAG", "AAAA"]), r"base found in sequences .*; row 2 has sequence_id s1, position 2, reference G, found A"),
        (SEQUENCES.assign(sequence=["TTTT", "CTAG", "AANA"]), r"row 2 has .* reference G, found N"),
        (SEQUENCES.assign(sequence=["TTTT", "CTAG", "ACG"]), "all sequences must have one length"),
        (SEQUENCES.assign(sequence_id="s1"), "each of sequences needs a sequence_id of its own; row 1 has sequence_id s1"),
        (SEQUENCES.drop(columns="sequence"), r"sequences needs the columns sequence_id, sequence; got .* add \['sequence'\]"),
    ],
)  # fmt: skip
def test_sequences_that_do_not_fit_raise(sequences, message):
    with pytest.raises(ValueError, match=message):
        import_effects(TABLE, sequences)


def listed(positions, references, **columns):
    """A table of one substitution a position."""
    alternates = ["C" if base != "C" else "G" for base in references]
    columns = {"sequence_id": "s", "feature": "f", "effect": 1.5, "se": 0.1} | columns
    return pd.DataFrame(
        {"position": positions, "reference": list(references), "alternate": alternates} | columns
    )


@pytest.mark.parametrize("positions", [[3_000_000] * 3, range(200_000, 200_200), [0, 1, 1_000_000]])
def test_coordinates_on_a_chromosome_are_refused(positions):
    with pytest.raises(
        ValueError,
        match=r"position must count within the sequence; got .*0-based within a sequence",
    ):
        import_effects(listed(np.unique(positions), "A" * len(set(positions))))


LETTERS = "GATTACATTGCCAGGATACCTGTGCAAGTC"


@pytest.mark.parametrize(
    ("positions", "references", "start", "hint"),
    [
        (np.arange(1, 31), LETTERS, None, "no such place; row 29 .* The references agree at position - 1: positions look 1-based, subtract 1$"),
        (np.arange(5, 15), LETTERS[4:14], None, "found in sequences .* positions look 1-based, subtract 1$"),
        ([30], "A", None, "no such place; .* Positions look 1-based: the first base is position 0$"),
        (np.arange(30), sequences.reverse_complement(LETTERS), None, "agree on the other strand: count from its end$"),
        (np.arange(7000, 7030), LETTERS, 7000, "Positions look like those of a chromosome: subtract start$"),
        (np.arange(7001, 7031), LETTERS, 7000, r"Positions look 1-based and of a chromosome: subtract start \+ 1$"),
        ([3], "A", None, "found T$"),
    ],
)  # fmt: skip
def test_what_positions_look_like_is_said(positions, references, start, hint):
    where = pd.DataFrame({"sequence_id": ["s"], "sequence": [LETTERS]})
    where = where if start is None else where.assign(start=start)
    assert import_effects(listed(np.arange(30), LETTERS), where)["effect"].count() == 30
    with pytest.raises(ValueError, match=hint):
        import_effects(listed(positions, references), where)


def test_a_sparse_table_loses_nothing_and_takes_little_memory():
    """One substitution at the centre of each of 20 long sequences, of 3 features."""
    rng = np.random.default_rng(0)
    ids = [f"s{i}" for i in range(20)]
    texts = ["".join(row) for row in rng.choice(list("ACGT"), (20, 50_000))]
    parts = [
        listed([25_000 + i % 2], texts[i][25_000 + i % 2], sequence_id=name, feature=k, effect=i + j)
        for i, name in enumerate(ids) for j, k in enumerate(("f", "g", "h"))
    ]  # fmt: skip
    where = pd.DataFrame({"sequence_id": ids, "sequence": texts})
    effects = import_effects(pd.concat(parts), where)
    assert effects["position"].to_numpy().tolist() == [25_000, 25_001]
    assert effects.nbytes < 20_000
    assert effects["effect"].count() == 60
    for i, name in enumerate(ids):
        cell = effects.sel(sequence=name, position=25_000 + i % 2)
        assert cell["effect"].max("allele").values.tolist() == [i, i + 1, i + 2]
        both = effects["reference"].sel(sequence=name).to_numpy()
        assert "".join(both) == texts[i][25_000:25_002]
    wide = import_effects(pd.concat([listed([90_000], "A", feature=f"f{k}") for k in range(9)]))
    assert wide.sizes["position"] == 1


def test_names_that_look_like_something_else_stay_text():
    for name in ("NA", "nan", "NULL", "None", "1", "1.0", "inf", "True", "train"):
        where = pd.DataFrame({"sequence_id": [name], "sequence": ["CAT"], "chrom": [name]})
        effects = import_effects(listed([1], "A", sequence_id=name, feature=name), where)
        assert {effects[c].item() for c in ("sequence", "feature", "chrom")} == {name}
    where = pd.DataFrame({"sequence_id": ["s"], "sequence": ["CAT"], "chrom": [1], "start": [4]})
    effects = import_effects(listed([1], "A"), where)
    assert (effects["chrom"].item(), effects["start"].item()) == ("1", 4)
    with pytest.raises(ValueError, match=r"needs a feature; row 0 .* with keep_default_na=False"):
        import_effects(listed([1], "A", feature=None))
    with pytest.raises(ValueError, match="each of sequences needs a sequence_id of its own; row 0"):
        import_effects(listed([1], "A"), where.assign(sequence_id=None))


def test_documented_columns_are_the_required_ones():
    for name in EFFECT_COLUMNS:
        assert f"``{name}``" in import_effects.__doc__
        if name != "se":  # which single networks do not have
            with pytest.raises(ValueError, match=name):
                import_effects(TABLE.drop(columns=name))


def test_export_has_the_columns_of_twosamplemr(effects):
    table = select_instruments(effects[0], "exposure", "outcome")
    exported = export_twosamplemr(table)
    roles = [
        f"{name}{role}"
        for role in ("exposure", "outcome")
        for name in (
            "", "id.", "effect_allele.", "other_allele.", "beta.", "se.", "pval.", "eaf.",
            "samplesize.",
        )
    ]  # fmt: skip
    assert exported.columns.tolist() == ["SNP", *roles, "mr_keep"]
    assert len(exported) == len(table) > 20
    assert exported["mr_keep"].all()
    assert exported["SNP"].is_unique
    row, source = exported.iloc[3], table.iloc[3]
    assert row["SNP"] == "{sequence_id}:{position}:{reference}>{alternate}".format(**source)
    assert (row["effect_allele.exposure"], row["other_allele.outcome"]) == (
        source["alternate"],
        source["reference"],
    )
    assert row["pval.outcome"] == pytest.approx(
        2 * scipy.stats.norm.sf(abs(source["beta_outcome"] / source["se_outcome"])), rel=1e-12
    )
    assert exported[["eaf.exposure", "eaf.outcome", "samplesize.exposure"]].isna().all().all()
    assert set(exported["exposure"]) == {"exposure"}
    assert exported["id.outcome"].tolist() == [f"{i}|outcome" for i in table["sequence_id"]]


def test_export_gives_one_estimate_a_sequence_after_a_csv(effects, tmp_path):
    """R's mr() groups by id.exposure and id.outcome; IVW written out must be ours."""
    table = select_instruments(effects[0], "exposure", "outcome")
    exported = export_twosamplemr(table, tmp_path / "instruments.csv")
    text = (tmp_path / "instruments.csv").read_text()
    assert ",TRUE\n" in text
    assert "True" not in text
    assert ",NA,NA," in text
    read = pd.read_csv(tmp_path / "instruments.csv")
    assert read["mr_keep"].dtype == bool
    pd.testing.assert_frame_equal(read, exported, rtol=1e-14, check_dtype=False)  # an ulp or two
    groups = read[read["mr_keep"]].groupby(["id.exposure", "id.outcome"], sort=False)
    weighted = groups.apply(
        lambda g: (
            (g["beta.exposure"] * g["beta.outcome"] / g["se.outcome"] ** 2).sum()
            / (g["beta.exposure"] ** 2 / g["se.outcome"] ** 2).sum()
        )
    )
    ours = local_mr(table, "ivw").set_index("sequence_id")["causal_effect"].dropna()
    assert len(ours) == len(weighted)
    by_sequence = {i.removesuffix("|exposure"): b for (i, _), b in weighted.items()}
    for sequence_id, estimate in ours.items():
        assert by_sequence[sequence_id] == pytest.approx(estimate, rel=1e-12)


def test_features_can_be_named_and_missing_instruments_are_not_kept(effects):
    table = select_instruments(effects[0], "exposure", "outcome").iloc[:5].copy()
    table.attrs = {}
    for name in ("beta_exposure", "se_exposure", "beta_outcome", "se_outcome"):
        table.loc[2, name] = np.nan
    exported = export_twosamplemr(table, exposure="Sox2", outcome="Oct4")
    assert exported["mr_keep"].tolist() == [True, True, False, True, True]
    assert exported["id.exposure"][0].endswith("|Sox2")
    assert set(exported["outcome"]) == {"Oct4"}
    assert len(export_twosamplemr(table.iloc[:0], exposure="a", outcome="b")) == 0


def test_bad_instruments_raise(effects):
    table = select_instruments(effects[0], "exposure", "outcome")
    with pytest.raises(
        ValueError, match=r"instrument table needs the columns .*; \['se_outcome'\] missing"
    ):
        export_twosamplemr(table.drop(columns="se_outcome"))
    with pytest.raises(
        ValueError, match="an instrument may be listed once; row 0 has sequence_id peak-b, position"
    ):
        export_twosamplemr(pd.concat([table, table[:1]]))
    with pytest.raises(ValueError, match="se_exposure must be greater than 0"):
        export_twosamplemr(table.assign(se_exposure=0.0))
    table.attrs = {"exposure": "a"}
    with pytest.raises(
        ValueError,
        match=r"the outcome needs a name, which the table has lost: give outcome='\.\.\.'",
    ):
        export_twosamplemr(table)


def test_one_set_of_names(effects):
    """What `to_dataframe` gives, and `effects_table`, comes back; old names are read."""
    effects, texts = effects
    ids = effects["sequence"].to_numpy()
    sequences_ = pd.DataFrame({"sequence_id": ids, "sequence": texts})
    table = effects_table(effects)
    assert table.columns.tolist() == [*EFFECT_COLUMNS, "reference_prediction"]
    assert len(table) == int(effects["effect"].notnull().sum())
    names = effects["feature"].to_numpy()
    for one in (table, effects.to_dataframe(), effects.to_dataframe().reset_index()):
        imported = import_effects(one, sequences_).sel(feature=names)
        for name in ("effect", "se", "reference_prediction", "reference"):
            xr.testing.assert_equal(imported[name], effects[name])


def test_identifiers_that_are_one_as_text():
    table = TABLE.assign(sequence_id=[1, 1, 1, 1, "1", "1"])
    with pytest.raises(
        ValueError, match=r"each sequence_id must differ .* 1 \(int\) and '1' \(str\)"
    ):
        import_effects(table)
    ids = SEQUENCES.assign(sequence_id=[1, "1", "s1"])
    with pytest.raises(ValueError, match="each sequence_id must differ"):
        import_effects(TABLE, ids)
    with pytest.raises(ValueError, match="each feature must differ"):
        import_effects(TABLE.assign(feature=[1, "1"] * 3))


def test_text_and_missing_numbers(effects):
    text = TABLE.astype({"effect": str, "se": str}).replace("nan", ".")
    xr.testing.assert_identical(import_effects(text), import_effects(TABLE))
    table = select_instruments(effects[0], "exposure", "outcome")
    names = ["beta_exposure", "se_exposure", "beta_outcome", "se_outcome"]
    strings = table.astype(dict.fromkeys(names, str))
    strings["alternate"] = strings["alternate"].str.lower()
    strings.attrs = table.attrs
    pd.testing.assert_frame_equal(export_twosamplemr(strings), export_twosamplemr(table))
    ids = pd.concat([table[:1].assign(sequence_id=1), table[:1].assign(sequence_id="1")])
    with pytest.raises(ValueError, match="each sequence_id must differ"):
        export_twosamplemr(ids, exposure="a", outcome="b")


@pytest.mark.parametrize("column", ["left out", "all NaN"])
def test_effects_without_standard_errors_go_through_without_intervals(column):
    """As those of tools that predict one network's mutants and keep the differences."""
    rng = np.random.default_rng(0)
    keys = itertools.product([f"s{i}" for i in range(12)], range(30), "CGT")
    rows = [(s, p, "A", a, x, 0.5 * x) for s, p, a in keys for x in [rng.normal()]]
    wide = pd.DataFrame(
        rows, columns=["sequence_id", "position", "reference", "alternate", "x", "y"]
    )
    table = wide.melt(list(wide)[:4], var_name="feature", value_name="effect")
    table = table if column == "left out" else table.assign(se=np.nan)
    found = deep_mr(import_effects(table), pairs=[("x", "y")], design="all").effects.iloc[0]
    assert found["effect"] == pytest.approx(0.5)
    assert found["k"] == 12
    assert np.isnan(found[["se", "ci_low", "p"]].astype(float)).all()
    assert found["verdict"] == "not distinguishable"  # x and y are one
    some = table.assign(se=np.where(table["position"] == 3, 0.1, np.nan))
    with pytest.raises(ValueError, match="effect and se must be NaN together"):
        import_effects(some)
