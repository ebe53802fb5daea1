"""What the API page leaves out: named tuples call each field "Alias for field number 0"."""


def _skip(app, what, name, member, skip, options):
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field") else None


def setup(app):
    app.connect("autodoc-skip-member", _skip)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
