"""The rendered book is whole: links lead somewhere, nothing is remote, pictures have words.

Reads ``_build/html``, or the directory named by ``DEEPMR_BOOK_HTML``. Nothing is skipped: without
a rendered book these tests fail.
"""

import os
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HTML = Path(os.environ.get("DEEPMR_BOOK_HTML", ROOT / "_build" / "html")).resolve()
URL_ATTRIBUTES = ("src", "href", "data", "poster", "action", "formaction", "background")
POINTERS = {"canonical", "next", "prev", "author", "license"}  # <link rel=...> that loads nothing
CSS_URL = re.compile(r"url\(\s*['\"]?([^'\")]+)['\"]?\s*\)|@import\s+['\"]([^'\"]+)['\"]")
FILE_NAME = re.compile(r"\S+\.(png|svg|jpe?g|gif|webp)$", re.IGNORECASE)


class Page(HTMLParser):
    """Links, targets of fragments and pictures of one page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.images, self.styles = [], set(), [], []
        self._in_style = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.update(value for key in ("id", "name") if (value := attrs.get(key)))
        rel = set((attrs.get("rel") or "").split())
        for key in URL_ATTRIBUTES:
            if attrs.get(key) is not None:
                self.links.append((tag, rel, attrs[key].strip()))
        for candidate in (attrs.get("srcset") or "").split(","):
            if candidate.strip():
                self.links.append((tag, rel, candidate.split()[0]))
        if attrs.get("style"):
            self.styles.append(attrs["style"])
        if tag == "img":
            self.images.append((attrs.get("src", ""), (attrs.get("alt") or "").strip()))
        self._in_style = tag == "style"

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        if self._in_style:
            self.styles.append(data)
            self._in_style = False


@cache
def parse(path):
    return Page(path)


def css_urls(text):
    return [first or second for first, second in CSS_URL.findall(text)]


def is_remote(url):
    parts = urlsplit(url)
    return parts.scheme not in ("", "data") or bool(parts.netloc)


def is_missing(base, url):
    """Say what is wrong with a local address, or return an empty string."""
    parts = urlsplit(url)
    if parts.scheme == "data":
        return ""
    target = (base.parent / unquote(parts.path)).resolve() if parts.path else base
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return "no such file"
    if parts.fragment and target.suffix == ".html":
        fragment = unquote(parts.fragment)
        if fragment not in parse(target).ids:
            return "no such fragment"
    return ""


def files(entry):
    """Pages named anywhere in a table of contents, however deeply nested."""
    if isinstance(entry, list):
        return [name for item in entry for name in files(item)]
    if isinstance(entry, dict):
        own = [entry["file"]] if "file" in entry else []
        return own + [name for value in entry.values() for name in files(value)]
    return []


@pytest.fixture(scope="module")
def pages():
    """All pages; HTML fragments that the theme keeps under _static are no pages."""
    found = sorted(p for p in HTML.rglob("*.html") if "_static" not in p.relative_to(HTML).parts)
    assert found, f"no pages in {HTML}: build the book first (make book)"
    return found


def report(problems):
    assert not problems, f"{len(problems)} problems:\n" + "\n".join(sorted(set(problems)))


def test_every_page_of_the_table_of_contents_was_built(pages):
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [toc["root"], *files(toc)]
    assert len(names) > 1, "the table of contents lists no page"
    built = {p.relative_to(HTML).as_posix() for p in pages}
    report([f"{name}: not built" for name in names if f"{name}.html" not in built])


def test_local_links_lead_somewhere(pages):
    report(
        [
            f"{page.relative_to(HTML)}: <{tag}> {url}: {wrong}"
            for page in pages
            for tag, _, url in parse(page).links
            if not is_remote(url) and (wrong := is_missing(page, url))
        ]
    )


def test_no_page_loads_anything_remote(pages):
    """Only <a href>, and <link> that merely points, may leave the book."""
    report(
        [
            f"{page.relative_to(HTML)}: <{tag}> loads {url}"
            for page in pages
            for tag, rel, url in parse(page).links
            if is_remote(url) and tag != "a" and not (tag == "link" and rel and rel <= POINTERS)
        ]
    )


def test_style_sheets_are_complete_and_local(pages):
    """Fonts and pictures named in the style sheets and inline styles that the pages use."""
    sheets = {
        (page.parent / unquote(urlsplit(url).path)).resolve()
        for page in pages
        for tag, rel, url in parse(page).links
        if tag == "link" and "stylesheet" in rel and not is_remote(url)
    }
    assert sheets, "no page uses a style sheet: the theme is missing"
    used = [(s, u) for s in sheets for u in css_urls(s.read_text(encoding="utf-8"))]
    used += [(p, u) for p in pages for style in parse(p).styles for u in css_urls(style)]
    problems = []
    for base, url in used:
        wrong = "is remote" if is_remote(url) else is_missing(base, url.split("?")[0].split("#")[0])
        if wrong and not url.startswith("#"):
            problems.append(f"{base.relative_to(HTML)}: {url}: {wrong}")
    report(problems)


def test_pages_that_need_mathjax_use_the_vendored_copy(pages):
    """MathJax is the one script that Sphinx would otherwise load from a network."""
    scripts = [
        url for page in pages for tag, _, url in parse(page).links if tag == "script" and url
    ]
    mathjax = {urlsplit(url).path.rsplit("_static/", 1)[-1] for url in scripts if "mathjax" in url}
    assert mathjax == {"mathjax/tex-mml-chtml.js"}
    assert (HTML / "_static" / "mathjax" / "LICENSE").is_file()


def test_pictures_have_alternative_text(pages):
    """A file name, which Sphinx and myst-nb put where nothing was given, does not count.

    A figure of a notebook gets its text from the metadata of its cell:
    ``"mystnb": {"image": {"alt": "..."}}``.
    """
    report(
        [
            f"{page.relative_to(HTML)}: {src}: alt {alt!r}"
            for page in pages
            for src, alt in parse(page).images
            if not alt or FILE_NAME.match(alt)
        ]
    )


def test_no_figure_is_shown_as_text(pages):
    """Where a page finds no picture of a figure, myst-nb writes what Python calls it."""
    words = {page: re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8")) for page in pages}
    named = re.compile(r"&lt;(Figure size \d|Axes\b)")
    report([f"{p.relative_to(HTML)}: {m.group()}" for p in pages for m in named.finditer(words[p])])


def test_terms_show_their_definition(pages):
    """Under the pointer: a link to the glossary has a title."""
    links = re.compile(r'<a [^>]*glossary\.html#term-[^>]*>(?=<span class="xref)')
    found = [(p, link) for p in pages for link in links.findall(p.read_text(encoding="utf-8"))]
    assert found
    report([f"{p.relative_to(HTML)}: {link}" for p, link in found if 'title="' not in link])
