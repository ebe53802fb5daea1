"""A report by parameters alone: what the notebook ``deep_mr`` and the command line call.

`check` says all that is wrong with the parameters before a network is evaluated, `mutate`, `answer`
and `nulls` compute, the rest shows. Nothing here is an interface: it serves one notebook.
"""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "analysis": "answer mutate nulls quality strongest",
        "command": "NOTEBOOK defaults main",
        "glued": "glue",
        "parameters": "check given",
        "show": "arrows asked_for both_ways count_verdicts forest limits logos provenance response "
        "verdict_table write_tables",
    },
)
