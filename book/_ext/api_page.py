"""What API pages leave out and link.

Named tuples call each field "Alias for field number 0": left out. A name in single backticks is
a link where the library has it, and code where it has not.
"""

from sphinx.domains.python import PyXRefRole


def _skip(app, what, name, member, skip, options):
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field") else None


class Name(PyXRefRole):
    """The default role: `name` or `name()`, of anything in Python."""

    def run(self):
        self.refdomain, self.reftype = "py", "obj"
        self.classes = ["xref", "py", "py-obj"]
        return self.create_xref_node()


def setup(app):
    app.connect("autodoc-skip-member", _skip)
    app.add_role("name", Name(fix_parens=True))
    return {"version": "2", "parallel_read_safe": True, "parallel_write_safe": True}
