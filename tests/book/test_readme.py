"""What the README says of the stored rounds is what they hold."""

from pathlib import Path

import test_claims as claims

ROOT = Path(__file__).parents[2]
FOLDER = "simulation_motif/without_mutants"


def test_the_one_result():
    none, *one, both = [
        (claims.slope(FOLDER, s), claims.coverage(FOLDER, s)) for s in claims.SCENARIOS
    ]
    text = " ".join((ROOT / "README.md").read_text().split()).replace(" %", "%")
    slopes = [slope for slope, _ in (none, *one, both)]
    assert f"estimates are {min(slopes):.2f} to {max(slopes):.2f} times the truth" in text
    assert none[1] == 1
    assert "contains the truth in all rounds without confounding" in text
    assert {f"{coverage:.0%}" for _, coverage in one} == {"85%"}
    assert "in 85% of them with one confounder" in text
    assert f"and in {both[1]:.0%} with two" in text
