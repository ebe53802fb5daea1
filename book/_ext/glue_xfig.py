"""Glue across pages, made safe (myst-nb 1.4).

1. ``{glue-xfig} key`` with ``:doc:``: a numbered, captioned figure glued from another
   page (myst-nb's ``{glue:figure}`` takes no ``:doc:``).
2. A page that glues from a notebook is rebuilt when that notebook changes
   (without this an incremental build keeps the old numbers).
3. ``:alt:`` gives the picture its text for readers who do not see it.
4. ``{glue-xtable} key`` with ``:doc:``: a numbered, captioned table, made of a DataFrame
   that is glued on another page; it looks like the tables of the book.
5. A figure may be SVG, which myst-nb glues across pages as text.
6. The picture of a ``glue(..., display=False)`` figure is written to ``_images``
   (without this the cross-page ``<img>`` is broken, with no warning).
"""

import hashlib
import json
import os
from binascii import a2b_base64
from pathlib import Path
from typing import ClassVar

from data_frames import is_frame, tidy_rows
from docutils import nodes
from docutils.parsers.rst import directives as spec
from myst_nb.ext.glue.crossref import read_glue_cache
from myst_nb.ext.glue.utils import (
    PendingGlueReference,
    PendingGlueReferenceError,
    create_pending_glue_ref,
)
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

# As myst-nb writes them: the name of a picture's file is the hash of its bytes.
PICTURES = {"png": a2b_base64, "svg+xml": lambda text: "\n".join(text.splitlines()).encode()}


def file_of(kind, picture):
    """Name and bytes of the file of a glued picture."""
    raw = PICTURES[kind](picture)
    return f"{hashlib.sha256(raw).hexdigest()}.{kind[:3]}", raw


class _Glued(SphinxDirective):
    """What is glued from the page ``:doc:``, with the content of the directive as its caption."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"doc": spec.unchanged_required, "name": spec.unchanged}

    def reference(self):
        try:
            return create_pending_glue_ref(
                self.state.document, *self.get_source_info(), self.options["doc"], self.arguments[0]
            )
        except PendingGlueReferenceError as exc:
            raise self.error(str(exc)) from exc

    def caption(self, kind):
        holder = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, holder)
        first = holder[0]
        caption = kind(first.rawsource, "", *first.children)
        caption.source, caption.line = first.source, first.line
        return caption

    def named(self, node):
        self.set_source_info(node)
        self.add_name(node)
        return [node]


class GlueXFig(_Glued):
    option_spec: ClassVar = {**_Glued.option_spec, "alt": spec.unchanged_required}

    def run(self):
        alt = self.options.get("alt", "")
        fig = nodes.figure("", self.reference(), align="center", glue_alt=alt)
        fig += self.caption(nodes.caption)
        return self.named(fig)


class GlueXTable(_Glued):
    def run(self):
        content = self.caption(nodes.title), self.reference()
        return self.named(nodes.table("", *content, glue_table=True, classes=["glued"]))


class GlueRows(SphinxPostTransform):
    """Keep of the HTML of a DataFrame its rows, once myst-nb (priority 5) has put it in place."""

    default_priority = 6

    def run(self):
        for table in self.document.findall(nodes.table):
            if not table.get("glue_table"):
                continue
            for raw in list(table.findall(nodes.raw)):
                text = raw.astext()
                if not is_frame(text):
                    raise ValueError(f"{self.env.docname}: what is glued as a table is none")
                new = nodes.raw("", tidy_rows(text), format="html")
                outer = raw
                while outer.parent is not table:
                    outer = outer.parent
                table.replace(outer, new)


class GlueVectors(SphinxPostTransform):
    """Put pictures that are SVG in place, which myst-nb (priority 5) shows as text."""

    default_priority = 4

    def run(self):
        page = (Path(self.app.outdir) / self.env.docname).parent
        folder = Path(self.app.outdir) / self.app.builder.imagedir
        for ref in list(self.document.findall(PendingGlueReference)):
            data = read_glue_cache(self.env.mystnb_config.output_folder, ref.refdoc)
            svg = data.get(ref.key, {"data": {}})["data"].get("image/svg+xml")
            if svg and ref.gtype != "text":
                uri = os.path.relpath(folder / file_of("svg+xml", svg)[0], page)
                ref.replace_self(nodes.image("", uri=uri, candidates={"*": uri}))


class GlueAlt(SphinxPostTransform):
    """Put ``:alt:`` on the picture, after myst-nb (priority 5) has put it in place."""

    default_priority = 6

    def run(self):
        for fig in self.document.findall(nodes.figure):
            if fig.get("glue_alt"):
                for image in fig.findall(nodes.image):
                    image["alt"] = fig["glue_alt"]


def note_dependencies(app, doctree):
    for ref in doctree.findall(PendingGlueReference):
        app.env.note_dependency(str(app.env.doc2path(ref.refdoc)))


def write_images(app, env):
    if app.builder.format != "html":
        return
    out = Path(app.outdir) / "_images"
    for cache in Path(env.mystnb_config.output_folder).rglob("*.glue.json"):
        for item in json.loads(cache.read_text()).values():
            for kind in PICTURES:
                if picture := item["data"].get(f"image/{kind}"):
                    name, raw = file_of(kind, picture)
                    out.mkdir(parents=True, exist_ok=True)
                    (out / name).write_bytes(raw)


def setup(app):
    app.add_directive("glue-xfig", GlueXFig)
    app.add_directive("glue-xtable", GlueXTable)
    app.add_post_transform(GlueRows)
    app.add_post_transform(GlueVectors)
    app.add_post_transform(GlueAlt)
    app.connect("doctree-read", note_dependencies)
    app.connect("env-check-consistency", write_images)
    return {"version": "0.4", "parallel_read_safe": True, "parallel_write_safe": True}
