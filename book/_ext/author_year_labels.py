"""Reference list sorted by author and labelled as it is cited: Malina et al., 2022."""

from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style as PlainStyle
from pybtex.style.labels import BaseLabelStyle


class AuthorYearLabels(BaseLabelStyle):
    """``Family``, ``Family and Family`` or ``Family et al.``, then the year."""

    def format_labels(self, sorted_entries):
        seen = set()
        for entry in sorted_entries:
            names = [" ".join(p.prelast_names + p.last_names) for p in entry.persons["author"]]
            names = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
            label = f"{names}, {entry.fields['year']}"
            if label in seen:
                raise ValueError(f"two references read {label!r}: add a letter to their years")
            seen.add(label)
            yield label


class DeepMRStyle(PlainStyle):
    """Pybtex's plain style with author-year labels."""

    default_label_style = AuthorYearLabels


def setup(app):
    """Register the style under the name that ``bibtex_default_style`` uses."""
    register_plugin("pybtex.style.formatting", "deepmr", DeepMRStyle)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
