"""A Chromium without a window: what it shows of a page, and what a script in it finds."""

import html
import json
import re
import shutil
import subprocess

import pytest
from matplotlib.image import imread

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WINDOW = (1400, 900)

# Runs once the page is drawn, and leaves what it returns where the DOM's dump shows it.
WATCH = """<script>
(async () => {
  const told = (value) => { document.body.dataset.found = JSON.stringify(value); };
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  while (document.body.dataset.state === "loading") await wait(20);
  const by = (id) => document.getElementById(id);
  const key = (key, more) => document.body.dispatchEvent(
    new KeyboardEvent("keydown", { key, bubbles: true, ...more }));
  const mouse = (kind, id, fx, fy, more) => {
    const canvas = document.querySelector(`#${id} canvas`);
    const box = canvas.getBoundingClientRect();
    canvas.setPointerCapture = () => {};
    const Kind = kind === "wheel" ? WheelEvent : kind === "dblclick" ? MouseEvent : PointerEvent;
    canvas.dispatchEvent(new Kind(kind, { bubbles: true, cancelable: true, button: 0,
      clientX: box.left + fx * box.width, clientY: box.top + fy * box.height, ...more }));
  };
  const click = (...at) => { mouse("pointerdown", ...at); mouse("pointerup", ...at); };
  const cross = () => ["z", "y", "x"].map((axis) => Number(by(`at-${axis}`).value));
  const settled = () => wait(60);
  try { told(await (async () => { SCRIPT })()); } catch (error) { told({ error: String(error) }); }
})();
</script></body>"""

# A browser that draws no window does not ask for frames, either.
FRAMES = "<script>window.requestAnimationFrame = (draw) => setTimeout(draw, 10);</script>"


def chromium():
    """Path of the browser; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium or Chrome here ({', '.join(NAMES)})")
    return found


def _run(page, folder, *options, fragment=""):
    command = [
        chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--force-device-scale-factor=1", f"--window-size={WINDOW[0]},{WINDOW[1]}",
        "--virtual-time-budget=8000", f"--user-data-dir={folder / 'profile'}", *options,
        f"{page.as_uri()}{fragment}",
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def screenshot(page, folder, *, fragment=""):
    """What the page looks like: [H, W, 3] floats in [0, 1]."""
    picture = folder / "screen.png"
    _run(page, folder, f"--screenshot={picture}", fragment=fragment)
    return imread(picture)[..., :3]


def found(page, folder, script, *, fragment=""):
    """What the body of an async function returns in the page, once it is drawn."""
    probe = folder / "probe.html"
    text = page.read_text()
    head, tail = text.replace("</head>", FRAMES + "</head>", 1).rsplit("</body>", 1)
    probe.write_text(head + WATCH.replace("SCRIPT", script) + tail)
    dom = _run(probe, folder, "--dump-dom", fragment=fragment)
    answer = re.search(r'data-found="([^"]*)"', dom)
    assert answer, dom[-2000:]
    return json.loads(html.unescape(answer[1]))
