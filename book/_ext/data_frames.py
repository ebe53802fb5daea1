"""Data frames look like the tables of the book, in notebooks and where they are glued.

Pandas writes an empty header cell above the row names, and names them in a row of their own. Here
they share one header row, rows that are only counted (0, 1, 2, ...) lose their count, words are
aligned to the left and numbers to the right, a value that is missing is a dash, and "-0.00" is 0.
"""

import re
from xml.etree import ElementTree

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

NUMBER = re.compile(r"[\s\d.,:+\-−–%e\[\]()<>=±≥≤]*|inf|-inf|NaN|None|NaT|<NA>|\.\.\.")
COUNTS = {str(i) for i in range(1000)}
MISSING = {"NaN", "NaT", "None", "<NA>"}
ZERO = re.compile(r"(?<![\w.])-(0(?:\.0*)?)(?![\d.])")


def is_frame(html):
    return 'class="dataframe' in html


def _text(cell):
    return "".join(cell.itertext()).strip()


def _merge_names(head):
    """Put the names of the row labels above them, into the row of the column names."""
    if len(head) < 2:
        return
    names, columns = list(head[-1]), list(head[-2])
    n = sum(bool(_text(cell)) for cell in names)
    free = len(columns) == len(names) and not any(
        _text(cell) for cell in [*names[n:], *columns[:n]]
    )
    if n and free:
        for i, cell in enumerate(names[:n]):
            head[-2].remove(columns[i])
            head[-2].insert(i, cell)
        head.remove(head[-1])


def _drop_counts(head, body):
    """Leave out labels without a name that only count rows: 0, 1, 2, perhaps again from 0."""
    labels = [_text(row.findall("th")[-1]) for row in body if row.find("th") is not None]
    follows = zip(["-1", *labels], labels, strict=False)
    if len(head) != 1 or not labels or len(labels) != len(body) or not set(labels) <= COUNTS:
        return
    place = len(body[0].findall("th")) - 1
    if not _text(head[0][place]) and all(b == "0" or int(b) == int(a) + 1 for a, b in follows):
        for row in body:
            row.remove(row.findall("th")[-1])
        head[0].remove(head[0][place])


def _align(head, body):
    """Mark the columns of words; columns are counted from the right, where no label is missing."""
    for cell in list(head[-1])[: len(body[0].findall("th"))] if len(body) else []:
        cell.set("class", "words")
    cells = [[cell for cell in row if cell.tag == "td"] for row in body]
    for i in range(1, max(map(len, cells), default=0) + 1):
        column = [row[-i] for row in cells if len(row) >= i]
        if all(NUMBER.fullmatch(_text(cell)) for cell in column):
            continue
        for cell in [*column, *(row[-i] for row in head if len(row) >= i)]:
            if not cell.get("colspan"):
                cell.set("class", "words")


def tidy_rows(html):
    """The rows of a data frame's HTML: ``<thead>`` and ``<tbody>``."""
    table = ElementTree.fromstring(html[html.index("<table") : html.index("</table>") + 8])
    head, body = table.find("thead"), table.find("tbody")
    _merge_names(head)
    _drop_counts(head, body)
    _align(head, body)
    for cell in [*table.iter("th"), *table.iter("td")]:
        for name in ("style", "valign", "halign"):
            cell.attrib.pop(name, None)
        if cell.tag == "th" and not _text(cell):
            cell.tag = "td"  # no header: nothing is named
        elif cell.tag == "th":
            above = "colgroup" if cell.get("colspan") else "col"
            cell.set("scope", above if cell in set(head.iter("th")) else "row")
        elif cell.tag == "td" and not len(cell):
            text = _text(cell)
            cell.text = "–" if text in MISSING else ZERO.sub(r"\1", text)
    return "".join(
        ElementTree.tostring(part, encoding="unicode", method="html").strip()
        for part in (head, body)
    )


class NotebookFrames(SphinxPostTransform):
    """Data frames that a notebook shows, once myst-nb (priority 4) has chosen HTML for them."""

    default_priority = 7

    def run(self):
        for raw in list(self.document.findall(nodes.raw)):
            text = raw.astext()
            if raw.get("format") != "html" or not is_frame(text):
                continue
            below = text[text.index("</table>") + len("</table>") :]
            shape = re.search(r"<p>.*?</p>", below)
            html = (
                '<div class="pst-scrollable-table-container" tabindex="0">'
                f'<table class="table glued">{tidy_rows(text)}</table></div>'
                + (shape.group() if shape else "")
            )
            raw.replace_self(nodes.raw("", html, format="html", classes=raw["classes"]))


def setup(app):
    app.add_post_transform(NotebookFrames)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
