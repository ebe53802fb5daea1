"""What the README says of the stored rounds is what they hold."""

from pathlib import Path

from experiments.cooperativity import round_scores, rounds

ROOT = Path(__file__).parents[2]


def test_the_one_result():
    stored = sorted((ROOT / "book" / "results" / "simulation").glob("*/round-*.json"))
    results = [rounds.load_round(p.parents[1], p.parent.name, int(p.stem[6:])) for p in stored]
    scores = round_scores.score_table(round_scores.global_table(results))
    slopes = scores.query("stratum == 'both motifs' and method == 'ivw'")["slope"]
    rules = round_scores.rule_table(results).reset_index().query("method == 'ivw'")
    coverage = rules.set_index("rule")["total_coverage"]
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"In {len(results)} simulated rounds" in text
    assert f"estimates are {slopes.min():.2f} to {slopes.max():.2f} times the truth" in text
    assert f"in only {coverage['plain']:.0%} of the rounds" in text.replace(" %", "%")
    assert f"it does in {coverage['rubin']:.0%}" in text.replace(" %", "%")
