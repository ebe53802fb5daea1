"""Figures: a table in, matplotlib Axes out."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "effects": "effect_heatmap effect_scatter forest global_against_truth model_quality "
        "reliability sequence_logo setting_scores",
        "graphs": "causal_graph effect_graph",
        "mr": "funnel leave_one_out method_scores radial",
        "pairs": "distance_heatmap effect_clustermap effects_against_reverse local_densities "
        "pair_forest private_movers",
        "style": "BLUE BROWN GREEN GREY NEGATIVE ORANGE PINK POSITIVE PURPLE RED SIGNS SKY "
        "label_points use_style",
    },
)
