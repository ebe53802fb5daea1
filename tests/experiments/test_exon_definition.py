"""Exon definition: exons in their sequences, what is stored, and what the chapter says of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepmr_utils import deep_mr, one_hot
from deepmr_utils.mutagenesis import saturation_mutagenesis
from deepmr_utils.predict import predict
from experiments import worlds
from experiments.splicing import answers, exons
from experiments.splicing.network import CONTEXT, ReadOut, load_ensemble
from experiments.study import open_study, run_units

ROOT = Path(__file__).parents[2]
STORED = ROOT / "book/results/exon_definition"
# Knock-outs of all 264 exons as they were computed apart, from whole sequences: medians
KNOCKOUT = {"donor": 0.28, "acceptor": 0.12}
BY_LENGTH = [0.38, 0.31, 0.25, 0.20]


@pytest.fixture(scope="module")
def chosen():
    return answers.stored_exons(STORED)


@pytest.fixture(scope="module")
def effects(chosen):
    return exons.load(STORED, chosen)


@pytest.fixture(scope="module")
def result(effects):
    return deep_mr(effects[0], edits=effects[1])


def test_exons_lie_where_their_table_says():
    table = exons.read_exons()
    assert (len(table), table["analysed"].sum()) == (308, 264)
    for exon_id, row in table.iterrows():
        sequence, sites = exons.read_exon(exon_id)
        (_, acceptor), (_, donor) = sites["acceptor"], sites["donor"]
        assert donor - acceptor + 1 == row["end"] - row["start"] == row["length"]
        assert sequence[acceptor - 2 : acceptor] == row["acceptor_dinucleotide"]
        assert sequence[donor + 1 : donor + 3] == row["donor_dinucleotide"]
        if not row["analysed"]:
            continue
        for kind, place in sites.values():  # also across introns, and of other genes
            dinucleotide = (
                sequence[place - 2 : place] if kind == "acceptor" else sequence[place + 1 :][:2]
            )
            assert dinucleotide in (["AG"] if kind == "acceptor" else ["GT", "GC"])
            assert CONTEXT <= place < len(sequence) - CONTEXT


def test_probabilities_are_those_of_the_table():
    sequence, sites = exons.read_exon("chr4_055")
    members = [ReadOut(network, list(sites.values())[:2]) for network in load_ensemble()]
    odds = predict(members, one_hot([sequence]), device="cpu")[:, 0]
    got = (1 / (1 + np.exp(-odds))).mean(axis=0)
    row = exons.read_exons().loc["chr4_055"]
    np.testing.assert_allclose(got, row[["acceptor_prob", "donor_prob"]].astype(float), atol=2e-6)


def test_what_is_stored_is_what_networks_predict_in_full():
    """By a path of its own: one member, mutants written out, no propagation."""
    exon = exons.read_exon("chr4_055")
    site = exon.sites["donor"][1]
    chosen = [site - 40, site + 1, site + 4]
    member = ReadOut(load_ensemble()[3], [exon.sites[name] for name in exons.SITES])
    texts = [exon.sequence] + [
        exon.sequence[:p] + base + exon.sequence[p + 1 :]
        for p in chosen for base in "ACGT" if base != exon.sequence[p]
    ]  # fmt: skip
    predicted = predict([member], one_hot(texts), device="cpu")[0]
    stored, _ = exons.load(STORED, ["chr4_055"])
    places = [p - exon.mutated[0] for p in chosen]
    held = stored["member_effect"].isel(member=3, sequence=0).sel(position=places).to_numpy()
    held = held[np.isfinite(held).all(axis=2)]
    np.testing.assert_allclose(held, predicted[1:] - predicted[0], rtol=2e-3, atol=2e-3)


def test_the_engine_propagates_the_read_outs(caplog):
    exon = exons.read_exon("chr4_055")
    member = ReadOut(load_ensemble()[0], [exon.sites[name] for name in exons.SITES])
    place = exon.sites["acceptor"][1] - 2
    options = {"positions": [place], "features": list(exons.SITES), "device": "cpu"}
    found = saturation_mutagenesis([member], one_hot([exon.sequence]), **options)
    assert not caplog.records  # nothing is predicted in full
    stored, _ = exons.load(STORED, ["chr4_055"])
    held = stored["member_effect"].isel(member=0, sequence=0).sel(position=exons.BEFORE - 2)
    np.testing.assert_allclose(found["effect"][0, 0], held, rtol=2e-3, atol=2e-3)


def test_a_read_out_needs_its_context():
    network = load_ensemble()[0]
    for position in (CONTEXT - 1, CONTEXT + 1):  # an index of -1, and one behind the end
        read = ReadOut(network, [("donor", position)])
        with pytest.raises(ValueError, match=rf"5000 to 5000; got {position}"):
            read(one_hot(["A" * (2 * CONTEXT + 1)]))


def test_a_read_out_beyond_5000_bases_does_not_move():
    sequence, sites = exons.read_exon("chr4_055")
    longer = sequence + sequence[:2000]
    site = sites["donor"][1]
    member = ReadOut(load_ensemble()[0], [("donor", site)])
    found = saturation_mutagenesis(
        [member], one_hot([longer]), positions=[site + 200, site + CONTEXT + 1],
        device="cpu"
    )["effect"].to_numpy()[0]  # fmt: skip
    assert np.nanmax(np.abs(found[0])) > 0
    assert np.nanmax(np.abs(found[1])) == 0


def test_knock_outs_are_those_computed_apart(effects):
    table = answers.with_exon(answers.local_knockouts(effects[1]))
    for exposure, median in KNOCKOUT.items():
        ratio = table.loc[table["exposure"] == exposure, "knockout"]
        assert ratio.median() == pytest.approx(median, abs=0.03)
    donor = table[table["exposure"] == "donor"]
    assert (donor["knockout"] > 0).mean() > 0.95
    by_length = donor.groupby("length_class", observed=True)["knockout"].median()
    np.testing.assert_allclose(by_length.loc[list(exons.LENGTH_CLASSES)], BY_LENGTH, atol=0.07)


def test_networks_know_exon_definition(result, chosen):
    local = result.local[result.local["exposure"] == "donor"]
    assert (local["causal_effect"] > 0).mean() >= 0.95
    classes = answers.by_length(result).set_index("exposure").loc["donor"]
    assert (classes["total_ci_low"] > 0).all()
    assert len(classes) == 4
    rank, low, high = answers.rank_correlation(local, 0)
    assert -0.6 < low < rank < high < 0
    table, _ = answers.across_introns(STORED, chosen, 0)
    assert (table["low"] > 0).all()
    assert (table["larger"] > 0.9).all()
    assert set(result.effects["verdict"]) == {"acts"}


def test_a_knock_out_is_predicted_without_its_dinucleotide(result, effects):
    predicted = answers.predicted_knock_outs(result, effects[1], "donor", "acceptor")
    errors = answers.relative_errors(predicted)
    assert errors["predicted"] <= 0.2
    assert errors["trivial"] > 1.1 * errors["predicted"]


def test_a_prediction_has_seen_nothing_of_its_gene(result, effects):
    edits = effects[1].copy(deep=True)
    before = answers.predicted_knock_outs(result, edits, "donor", "acceptor")
    gene = before["gene"].value_counts().index[0]
    own = np.isin(edits["sequence_id"], before.loc[before["gene"] == gene, "sequence_id"])
    edits["member_effect"].loc[{"feature": "acceptor"}] *= 1 + 9 * own
    edits["effect"].loc[{"feature": "acceptor"}] *= 1 + 9 * own
    after = answers.predicted_knock_outs(result, edits, "donor", "acceptor")
    mine = before["gene"] == gene
    assert (after["predicted"][mine] == before["predicted"][mine]).all()
    assert (after["predicted"][~mine] != before["predicted"][~mine]).any()
    np.testing.assert_allclose(after["actual"][mine], 10 * before["actual"][mine])


def test_instruments_have_the_places_of_a_gene(result):
    row = exons.read_exons().loc["chr4_055"]
    donor = exons.BEFORE + row["length"] - 1
    positions = [0, exons.BEFORE - 5, exons.BEFORE - 1, exons.BEFORE, donor - 3, donor - 2,
                 donor + 1, donor + 2, donor + 5, donor + 7]  # fmt: skip
    table = pd.DataFrame({"sequence_id": "chr4_055", "position": positions})
    up, tract, ag, inside, gt, rest, down = answers.PLACES
    expected = [up, tract, ag, inside, inside, rest, gt, gt, rest, down]
    assert answers.placed(table)["place"].tolist() == expected


def test_intervals_resample_genes():
    """Exons of a gene alike: the interval must be that of genes, not of exons."""
    rng = np.random.default_rng(0)
    genes = np.repeat(np.arange(40), 10)
    values = rng.normal(size=40)[genes]
    table = pd.DataFrame({"gene": genes})
    mean, low, high = answers.of_genes(table, lambda rows: values[rows].mean(), 0)
    assert mean == pytest.approx(values.mean())
    assert (high - low) / 4 == pytest.approx(values[::10].std() / np.sqrt(40), rel=0.1)


def test_other_genes_are_controls():
    table = answers.other_genes(STORED)
    assert set(table["exon"]) <= {"chr3_057", "chr3_058", "chr3_060"}
    assert (table["distance"].abs() > 500).all()  # none of an exon that overlaps
    assert table["knockout"].abs().max() < 0.1


def test_the_worlds_of_the_verdicts(result):
    (case,) = worlds.exon_definition({"stored": STORED}, 0, "cpu")
    assert case.truth["truth"].tolist() == ["acts", "acts"]
    donor = case.truth.set_index("exposure").loc["donor", "true_effect"]
    assert donor == pytest.approx(0.38, abs=0.08)
    lengths = exons.read_exons().loc[case.effects["sequence"].to_numpy(), "length"]
    assert lengths.max() < 80
    (case,) = worlds.other_genes({"stored": STORED}, 0, "cpu")
    assert set(case.truth["truth"]) == {"absent"}


def test_a_unit_is_an_exon_and_is_found_again(tmp_path, monkeypatch):
    units, folder = open_study("exon_definition", ROOT / "book/parameters/exon_definition.yml")
    assert folder == "book/results/exon_definition"
    analysed = exons.read_exons().query("analysed").index
    assert set(analysed) | {"chr3_058", "chr3_059"} == set(units)
    mutated, edited = exons.load(STORED, ["chr4_055"])
    calls = []

    def mutate(exon_id, device):
        calls.append(exon_id)
        return mutated, edited

    monkeypatch.setattr(exons, "mutate", mutate)
    one = {"chr4_055": units["chr4_055"]}
    for _ in range(2):
        run_units(one, tmp_path)
    assert calls == ["chr4_055"]
    again, edits = exons.load(tmp_path, ["chr4_055"])
    np.testing.assert_allclose(again["member_effect"], mutated["member_effect"], rtol=1e-3)
    np.testing.assert_array_equal(edits["member_effect"], edited["member_effect"])
    with pytest.raises(ValueError, match="chr4_002"):
        exons.load(tmp_path, ["chr4_055", "chr4_002"])
    with pytest.raises(ValueError, match="none of 1 exons has read-outs next acceptor, donor"):
        exons.load(tmp_path, ["chr4_055"], ["next acceptor", "donor"])
