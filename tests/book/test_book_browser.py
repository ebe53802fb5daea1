"""Every page of the rendered book works in a browser, on a phone, and on its own.

Chromium opens each page of ``_build/html``, or of ``DEEPMR_BOOK_HTML``, in a frame as wide as a
phone. A script that the server adds before any other notes errors, and requests to other places,
which a policy forbids. Where there is no Chromium these tests are skipped.
"""

import json
import os
import shutil
import subprocess
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
HTML = Path(os.environ.get("DEEPMR_BOOK_HTML", ROOT / "_build" / "html")).resolve()
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
WIDTH = 390  # pixels of a phone
PATIENCE = 600  # seconds for all pages
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; form-action 'self'"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is here")

PROBE = b"""<script>
window.noted = {errors: [], requests: []};
addEventListener("error", (event) => noted.errors.push(
  event.message || `not loaded: ${event.target.src || event.target.href}`), true);
addEventListener("unhandledrejection", (event) => noted.errors.push(`${event.reason}`));
addEventListener("securitypolicyviolation", (event) =>
  noted.requests.push(`${event.effectiveDirective} ${event.blockedURI}`));
console.error = (...words) => noted.errors.push(words.join(" "));
</script>"""

RUNNER = """<!doctype html><meta charset="utf-8"><body><script>
const WIDTH = %d;
const wait = (ms) => new Promise((go) => setTimeout(go, ms));
const text = (e) => `<${e.tagName.toLowerCase()} class="${e.getAttribute("class") ?? ""}"> ` +
  e.textContent.trim().slice(0, 40);

function ancestors(e) {
  const all = [];
  for (let a = e.parentElement; a; a = a.parentElement) all.push(a);
  return all;
}

// What reaches over the edge, and is not in a box of its own that scrolls.
function wide(win) {
  const doc = win.document, found = [];
  const across = doc.documentElement.scrollWidth;
  if (across > WIDTH) found.push(`the page is ${across} pixels wide`);
  for (const e of (doc.querySelector("article") ?? doc.body).querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    if (box.width < 2 || box.right <= WIDTH + 1) continue;
    const styles = ancestors(e).map((a) => win.getComputedStyle(a));
    const own = (s) => ["auto", "scroll"].includes(s.overflowX) || s.clip !== "auto";
    const cut = e.matches("caption, figcaption");  // is not read by scrolling
    if (cut || !styles.some(own)) found.push(`${text(e)}: to ${Math.round(box.right)}`);
  }
  return found.slice(0, 5);
}

function luminance([r, g, b]) {
  const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.03928
    ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}

// Links whose colour is too near to that of the ground they stand on.
function pale(win) {
  const found = [], numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  for (const e of (win.document.querySelector("article") ?? win.document.body).querySelectorAll("a")) {
    if (!e.textContent.trim() || !e.offsetWidth || e.className.includes("headerlink")) continue;
    const ink = luminance(numbers(win.getComputedStyle(e).color));
    const grounds = [e, ...ancestors(e)].map((a) => numbers(win.getComputedStyle(a).backgroundColor));
    const ground = luminance(grounds.find((c) => c.length === 3 || c[3] === 1) ?? [255, 255, 255]);
    const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    if (ratio < 4.5) found.push(`${text(e)}: ${ratio.toFixed(2)}`);
  }
  return found.slice(0, 5);
}

async function look(page) {
  localStorage.clear();  // as on a first visit
  const frame = document.createElement("iframe");
  frame.style.cssText = `width: ${WIDTH}px; height: 844px; border: 0`;
  const loaded = new Promise((go) => (frame.onload = () => go(true)));
  frame.src = page;
  document.body.append(frame);
  if (!(await Promise.race([loaded, wait(60000)]))) return {errors: ["not loaded in a minute"]};
  const win = frame.contentWindow;
  await Promise.race([win.MathJax?.startup?.promise, wait(60000)]);
  await win.document.fonts.ready;
  await wait(50);
  const found = {...win.noted, wide: wide(win), pale: pale(win)};
  win.document.documentElement.dataset.theme = "dark";
  found.pale_in_the_dark = pale(win);
  frame.remove();
  return found;
}

(async () => {
  const pages = await (await fetch("/pages.json")).json();
  const found = {};
  for (const page of pages) {
    try { found[page] = await look(`/${page}`); }
    catch (error) { found[page] = {errors: [`the check itself: ${error}`]}; }
  }
  await fetch("/found", {method: "POST", body: JSON.stringify(found)});
})();
</script>"""


class Book(SimpleHTTPRequestHandler):
    """Serves the pages with the probe in them, and takes what was found."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args, pages, found, **kwargs):
        self.pages, self.found = pages, found
        super().__init__(*args, **kwargs)

    def do_GET(self):
        path = urlsplit(self.path).path
        file = Path(self.translate_path(self.path))
        if path == "/runner":
            self.answer("text/html; charset=utf-8", (RUNNER % WIDTH).encode())
        elif path == "/pages.json":
            self.answer("application/json", json.dumps(self.pages).encode())
        elif file.suffix == ".html" and file.is_file():
            head, tag, rest = file.read_bytes().partition(b"<head>")
            self.answer("text/html; charset=utf-8", head + tag + PROBE + rest)
        else:
            super().do_GET()

    def do_POST(self):
        self.found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer("text/plain", b"")

    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self):
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cache-Control", "max-age=600")
        super().end_headers()

    def log_message(self, *args):
        pass


def look_at(folder, profile):
    """What a browser finds on all pages of a folder, by page and kind."""
    pages = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.html")
        if "_static" not in path.relative_to(folder).parts
    )
    assert pages, f"no pages in {folder}: build the book first (make book)"
    found = SimpleQueue()
    handler = partial(Book, directory=str(folder), pages=pages, found=found)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        browser = subprocess.Popen(
            [
                *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-dev-shm-usage", "--disable-background-networking"),
                *("--remote-debugging-port=0", f"--user-data-dir={profile}"),
                f"http://127.0.0.1:{server.server_port}/runner",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return found.get(timeout=PATIENCE)
        except Empty:
            pytest.fail(f"{CHROMIUM} did not look at all pages in {PATIENCE} seconds")
        finally:
            browser.terminate()
            browser.wait(10)
            server.shutdown()


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    return look_at(HTML, tmp_path_factory.mktemp("browser"))


KINDS = {
    "errors": "errors in the console",
    "requests": "requests that leave the book",
    "wide": f"what is wider than {WIDTH} pixels and does not scroll in itself",
    "pale": "links with a contrast below 4.5",
    "pale_in_the_dark": "links with a contrast below 4.5 in the dark theme",
}


@pytest.mark.parametrize("kind", KINDS)
def test_pages(findings, kind):
    problems = [f"{page}: {text}" for page, of in findings.items() for text in of.get(kind, [])]
    assert not problems, f"{KINDS[kind]}, {len(problems)}:\n" + "\n".join(problems)


BROKEN = """<!doctype html><html><head><title>Broken</title>
<script>const twice = 1;</script><script>const twice = 2;</script>
<script src="missing.js"></script></head><body><article>
<div style="width: 500px">wide</div>
<div style="overflow-x: auto"><div style="width: 500px">scrolls</div></div>
<div style="overflow-x: auto"><table style="width: 500px"><caption>cut</caption></table></div>
<img src="https://example.org/picture.png" alt="remote">
<p style="background: #fff"><a href="#" style="color: #bbb">pale</a> <a href="#">link</a></p>
<script>console.error("said so"); Promise.reject("refused")</script>
</article></body></html>"""


def test_the_check_finds_what_is_broken(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "broken.html").write_text(BROKEN)
    (tmp_path / "book" / "good.html").write_text(
        "<!doctype html><html><head><title>Good</title></head><body><p>Good.</p></body></html>"
    )
    found = look_at(tmp_path / "book", tmp_path / "browser")
    broken, good = found["broken.html"], found["good.html"]
    assert not any(good.values())
    errors = " | ".join(broken["errors"])
    for expected in ("'twice' has already", "missing.js", "said so", "refused"):
        assert expected in errors
    assert broken["requests"] == ["img-src https://example.org/picture.png"]
    assert broken["wide"][0] == "the page is 508 pixels wide"
    assert ["> wide" in broken["wide"][1], "> cut" in broken["wide"][2]] == [True, True]
    assert len(broken["wide"]) == 3
    assert len(broken["pale"]) == 1
