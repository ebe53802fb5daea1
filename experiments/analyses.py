"""The analyses that studies compare, as options of `deepmr_utils.analysis.deep_mr`, by name.

"motif" is what `deep_mr` does by itself where motifs are known, "published" what the paper did.
"""

from deepmr_utils.analysis import PUBLISHED

ANALYSES = {
    "motif": {"design": "motif"},
    "strongest": {"design": "strongest"},
    "strongest_egger": {"design": "strongest", "method": "egger"},
    "all": {"design": "all"},
    "strong": {"design": "all", "threshold": 3.0},
    "published": PUBLISHED,
    # the paper's analysis of the simulation and of DeepSEA
    "published_simulation": PUBLISHED | {"threshold": 1.0, "method": "egger_robust"},
    "published_deepsea": PUBLISHED | {"threshold": 1.0, "method": "egger"},
}
