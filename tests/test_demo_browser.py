"""The page as a person uses it, in Chromium, at the width of a desk and of a phone."""

import os
import shutil
import tempfile

import numpy as np
import pytest
from PIL import Image

from styleforge import StylePipeline
from styleforge.models import ResnetGenerator

pytest.importorskip("gradio", reason="the page needs gradio: pip install '.[demo]'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = os.environ.get("STYLEFORGE_CHROMIUM") or shutil.which("chromium")

from styleforge import demo  # noqa: E402
from styleforge.demo.scene import draw_scene  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH, nor in STYLEFORGE_CHROMIUM"),
]
WIDTHS = {"desk": (1280, 900), "phone": (390, 844)}
UNNAMED = """() => [...document.querySelectorAll("button, input, a, textarea")].filter(e => e.offsetParent && !(
    e.ariaLabel || e.title || e.innerText.trim() || e.labels?.length || e.closest("label"))).map(e => e.outerHTML)"""


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("styles")
    for name in ("one", "two"):
        ResnetGenerator(width=4, blocks=1).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def address(styles):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", folder)
        page = demo.launch("127.0.0.1", styles=[str(styles / "one"), str(styles / "two")], wait=False)
        yield page.local_url
        page.close()


@pytest.fixture(scope="module")
def browser():
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(params=list(WIDTHS))
def page(request, browser, address):
    """The page, opened; what it asked other machines for, and what its console said, are the test's to look at."""
    width, height = WIDTHS[request.param]
    page = browser.new_page(viewport={"width": width, "height": height}, has_touch=width < 500)
    page.foreign, page.complaints = [], []
    page.on("request", lambda asked: page.foreign.append(asked.url) if not _ours(asked.url, address) else None)
    page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
    page.goto(address)
    page.get_by_role("button", name="Paint it").wait_for(timeout=60_000)
    yield page
    page.close()


def _ours(url, address):
    return url.startswith((address, "data:", "blob:"))


@pytest.fixture
def photo(tmp_path):
    draw_scene("lake", (300, 200)).save(tmp_path / "lake.png")
    return tmp_path / "lake.png"


def paint(page):
    """Press the button, and wait until there is something new to download."""
    page.get_by_role("button", name="Paint it").click()
    playwright.expect(page.get_by_role("button", name="Download in full size")).to_be_enabled(timeout=60_000)


def upload(page, photo):
    page.get_by_test_id("file-upload").and_(page.locator("[accept='image/*']")).first.set_input_files(photo)
    page.get_by_alt_text("Photo").wait_for()


def download(page, path):
    with page.expect_download() as given:
        page.get_by_role("button", name="Download in full size").click()
    given.value.save_as(path)
    return given.value.suggested_filename, np.array(Image.open(path))


def test_upload_choose_paint_compare_download(page, styles, photo, tmp_path):
    upload(page, photo)
    page.get_by_alt_text("two").click()
    page.get_by_text("two · ResnetGenerator").wait_for()
    paint(page)
    name, pixels = download(page, tmp_path / "out.png")
    assert name == "lake-two.png"
    assert np.array_equal(pixels, np.array(StylePipeline.from_pretrained(styles / "two")(photo)))
    assert not page.foreign and not page.complaints


def test_the_line_moves(page, photo):
    upload(page, photo)
    paint(page)
    handle = page.locator(".slider-wrap .inner, .slider-wrap .outer").first
    handle.scroll_into_view_if_needed()
    before = handle.bounding_box()
    x, y = before["x"] + before["width"] / 2, before["y"] + before["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 80, y, steps=5)
    page.mouse.up()
    assert handle.bounding_box()["x"] == pytest.approx(before["x"] - 80, abs=4)


def test_only_what_the_brush_touched_changes(page, styles, photo, tmp_path):
    upload(page, photo)
    page.get_by_role("button", name="Only a part of it: paint where").click()
    canvas = page.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    page.get_by_label("Zoom in").wait_for()
    page.wait_for_timeout(1000)  # the brush has no mark of being ready
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 20, y)
    page.mouse.down()
    page.mouse.move(x + 20, y, steps=8)
    page.mouse.up()
    paint(page)
    _, pixels = download(page, tmp_path / "out.png")
    changed = (pixels != np.array(Image.open(photo))).any(2)
    assert changed[95:105, 145:155].mean() > 0.9
    assert 0 < changed.mean() < 0.4 and not changed[:30].any() and not changed[-30:].any()


def test_errors_are_sentences_and_examples_are_pictures(page):
    page.get_by_role("button", name="Paint it").click()
    page.get_by_text("There is no picture yet. Give a picture first.").first.wait_for()
    page.get_by_alt_text("evening").click()
    page.get_by_alt_text("Photo").wait_for()
    paint(page)


def test_everything_fits_and_has_a_name(page):
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(UNNAMED) == []
    for tab in ("Batch", "Film", "Inside", "Picture"):
        page.get_by_role("tab", name=tab).click()
