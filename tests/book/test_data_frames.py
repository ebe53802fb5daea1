"""Data frames, as the book shows them."""

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "book" / "_ext"))

from data_frames import tidy_rows


def rows(frame):
    """Texts of the cells of each row; words to the left have a "<", row labels a ":"."""
    html = tidy_rows(frame.to_html())
    cells = re.compile(r"<(t[hd])([^>]*)>(.*?)</")
    return [
        [
            ("<" if "words" in of else "") + text + (":" if 'scope="row"' in of else "")
            for _, of, text in cells.findall(row)
        ]
        for row in re.findall(r"<tr.*?</tr>", html, re.DOTALL)
    ]


def test_names_of_row_labels_stand_in_the_header():
    frame = pd.DataFrame({"slope": [0.5, -0.001]}, pd.Index(["Oct4", "Sox2"], name="factor"))
    assert rows(frame.round(2)) == [["<factor", "slope"], ["Oct4:", "0.5"], ["Sox2:", "0.0"]]


def test_what_only_counts_the_rows_is_left_out():
    frame = pd.DataFrame({"gene": ["a & b", "c"], "n": [1, np.nan]})
    assert rows(frame) == [["<gene", "n"], ["<a &amp; b", "1.0"], ["<c", "–"]]
    both = pd.concat({"before": frame, "after": frame})
    assert rows(both)[1:3] == [["before:", "<a &amp; b", "1.0"], ["<c", "–"]]
    kept = rows(frame.set_axis([3, 7]))
    assert kept[0] == ["<", "<gene", "n"]
    assert kept[1][0] == "3:"


def test_no_header_cell_is_empty():
    table = pd.DataFrame({"x": list("aabb"), "y": list("cdcd"), "z": range(4)}).pivot(
        index="x", columns="y"
    )
    for frame in (table, pd.DataFrame([[1, 2]], ["row"])):
        assert not re.search(r"<th[^>]*>\s*</th>", tidy_rows(frame.to_html()))


@pytest.mark.parametrize(
    ("value", "shown"),
    [("-0.00", "0.00"), ("[-0.00, -0.01]", "[0.00, -0.01]"), ("-0.003", "-0.003"), (None, "–")],
)
def test_values(value, shown):
    assert rows(pd.DataFrame({"v": [value]}))[1][-1].lstrip("<") == shown
