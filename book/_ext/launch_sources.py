"""Launch buttons of executed notebooks open what was executed.

The theme derives the address of a page's notebook from the page's name. Ours are executed copies,
``executed/NAME.ipynb``, which the repository does not hold; it has ``notebooks/NAME.ipynb``.
"""

import re

# On Binder only: the download button rightly gives the executed copy.
EXECUTED = re.compile(r"(?<=urlpath=lab/tree/)executed/(\w+?)(_paper_scale)?\.ipynb$")


def to_sources(app, pagename, templatename, context, doctree):
    """Rewrite the addresses of the launch buttons that the theme made for a page."""
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if "url" in button:
                button["url"] = EXECUTED.sub(r"notebooks/\1.ipynb", button["url"])


def setup(app):
    """Run after the theme's own handlers, which have priority 501."""
    app.connect("html-page-context", to_sources, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
