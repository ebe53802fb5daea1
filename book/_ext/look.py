"""What the theme lacks: code that is folded, words for search engines and cards, buttons that fit.

1. The code of notebooks is folded, cells without output with the next, except on the pages of
   ``unfolded_notebooks``.
2. Every page has a description, its first paragraph, and the tags of which other sites make a
   card; its picture is ``social_card``, relative to ``html_baseurl``.
3. A term that leads to the glossary has the first sentence of its definition as its title.
4. The edit button of an executed notebook leads to the notebook that is in the repository.
"""

import re
from html import escape

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

LONGEST = 200  # characters of a description that search engines show


class FoldCode(SphinxPostTransform):
    """Ask myst-nb to fold the code of a notebook, before it does (priority 199)."""

    default_priority = 150
    formats = ("html",)

    def run(self):
        docname = self.env.docname
        if not docname.startswith("executed/") or docname in self.config.unfolded_notebooks:
            return
        for cell in self.document.findall(nodes.container):
            if cell.get("nb_element") == "cell_code" and not cell.get("hide_mode"):
                classes = " ".join(cell["classes"])
                what = "parameters" if "parameters" in classes else "code"
                cell["hide_mode"] = "input"
                cell["prompt_show"], cell["prompt_hide"] = f"Show {what}", f"Hide {what}"


class JoinFolds(SphinxPostTransform):
    """One fold for cells that follow each other and show nothing in between."""

    default_priority = 200
    formats = ("html",)

    def run(self):
        for cell in list(self.document.findall(nodes.container)):
            if cell.get("nb_element") != "cell_code" or not _only_folded(cell):
                continue
            following = cell.next_node(descend=False, siblings=True)
            fold = following[0] if _is_cell(following) else None
            if isinstance(fold, HideCodeCellNode) and fold["prompt_show"] == cell[0]["prompt_show"]:
                for source in reversed(cell[0].children):
                    fold.insert(0, source)
                cell.parent.remove(cell)


def _is_cell(node):
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code" and len(node)


def _only_folded(cell):
    """Whether a cell has folded code and no output that shows."""
    return (
        len(cell)
        and isinstance(cell[0], HideCodeCellNode)
        and not any(part.children for part in cell[1:])
    )


def description(doctree):
    """The first paragraph of a page that is a sentence, in one line of at most ``LONGEST``."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        inside = paragraph.parent
        aside = isinstance(inside, nodes.Admonition | nodes.entry | addnodes.toctree)
        if len(text) >= 40 and not aside:
            if len(text) > LONGEST:
                text = text[:LONGEST].rsplit(" ", 1)[0].rstrip(",;:") + " ..."
            return text
    return ""


def add_tags(app, pagename, templatename, context, doctree):
    if doctree is None:
        return
    title = re.sub(r"<[^>]*>", "", context.get("title") or "")
    base = app.config.html_baseurl.rstrip("/") + "/"
    book = app.config.html_title
    tags = {
        ("property", "og:type"): "article" if pagename != app.config.root_doc else "website",
        ("property", "og:site_name"): book,
        ("property", "og:title"): title if title == book else f"{title} – {book}",
        ("property", "og:url"): f"{base}{pagename}.html",
        ("property", "og:image"): base + app.config.social_card,
        ("property", "og:image:alt"): app.config.social_card_alt,
        ("name", "twitter:card"): "summary_large_image",
    }
    if words := description(doctree):
        tags["name", "description"] = tags["property", "og:description"] = words
    context["metatags"] = context.get("metatags", "") + "".join(
        f'\n<meta {kind}="{name}" content="{escape(words)}" />'
        for (kind, name), words in tags.items()
    )


def definitions(env):
    """First sentences of the glossary, by the fragment of the term."""
    found = {}
    for item in env.get_doctree(env.config.glossary_page).findall(nodes.definition_list_item):
        text = " ".join(item[-1].astext().split())
        sentence = re.split(r"(?<=[a-z)\]][.!?]) (?=[A-Z])", text)[0]
        for term in item.findall(nodes.term):
            found.update(dict.fromkeys(term["ids"], sentence))
    return found


def add_definitions(app, doctree, docname):
    glossary = app.config.glossary_page
    if not glossary or docname == glossary or glossary not in app.env.found_docs:
        return
    known = app.env.temp_data.get("definitions") or definitions(app.env)
    app.env.temp_data["definitions"] = known
    for link in doctree.findall(nodes.reference):
        if any("std-term" in inside.get("classes", []) for inside in link.findall(nodes.inline)):
            fragment = link.get("refid") or link.get("refuri", "").partition("#")[2]
            if fragment in known:
                link["reftitle"] = known[fragment]


def fit_buttons(app, pagename, templatename, context, doctree):
    name = pagename.removeprefix("executed/")
    if name == pagename:
        return
    own = f"/notebooks/{name.removesuffix('_paper_scale')}.ipynb"

    def fit(buttons):
        for button in buttons:
            fit(button.get("buttons", []))
            if button.get("url", "").startswith("http"):
                button["url"] = button["url"].replace(f"/{pagename}.ipynb", own)

    fit(context.get("header_buttons", []))


def setup(app):
    app.add_config_value("unfolded_notebooks", [], "env")
    app.add_config_value("social_card", "", "html")
    app.add_config_value("social_card_alt", "", "html")
    app.add_post_transform(FoldCode)
    app.add_post_transform(JoinFolds)
    app.add_config_value("glossary_page", "", "html")
    app.connect("doctree-resolved", add_definitions)
    app.connect("html-page-context", add_tags)
    app.connect("html-page-context", fit_buttons, priority=900)
    return {"version": "0.1", "parallel_read_safe": True, "parallel_write_safe": True}
