"""The page in Chromium."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from pages import CITYSCAPES, SIZE, browser, image_of, label_of, pixels, running, write_bag

from m2f_ros.serve.page.recording import Recording

PALETTE = CITYSCAPES.palette()
pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def chromium():
    with browser() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with running(Recording(write_bag(tmp_path_factory.mktemp("browser") / "bag"))) as port:
        yield port


@pytest.fixture
def page(chromium, port):
    page = chromium.new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: faults.append(request.url) if f"127.0.0.1:{port}" not in request.url else None)
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector("#legend .share:not(:empty)")
    yield page
    page.close()
    assert [fault for fault in faults if not fault.startswith("blob:")] == []


def test_the_canvas_has_the_colours_of_the_labels(page):
    page.keyboard.press("3")
    np.testing.assert_array_equal(pixels(page), PALETTE[label_of(0)])
    page.get_by_role("button", name="One frame forwards").click()
    page.get_by_text("2 / 4").wait_for()
    wait_for(page, lambda: (pixels(page) == PALETTE[label_of(1)]).all())
    page.keyboard.press("1")
    assert np.abs(pixels(page).astype(int) - image_of(1)).max() <= 2


def test_alpha_mixes_image_and_colours(page):
    page.get_by_label("Colours over the image").fill("0.25")
    label = label_of(0)
    wanted = np.where((label == 255)[..., None], image_of(0), 0.75 * image_of(0) + 0.25 * PALETTE[label])
    assert np.abs(pixels(page) - wanted).max() <= 3


def test_the_legend_switches_classes(page):
    page.keyboard.press("3")
    road = page.locator('#legend button[data-name="road"]')
    road.click()
    assert road.get_attribute("aria-pressed") == "false"
    label = label_of(0)
    np.testing.assert_array_equal(pixels(page), np.where((label == 0)[..., None], 0, PALETTE[label]))
    road.press("Enter")
    np.testing.assert_array_equal(pixels(page), PALETTE[label])
    road.click(modifiers=["Shift"])
    np.testing.assert_array_equal(pixels(page), np.where((label == 0)[..., None], PALETTE[0], 0))
    page.get_by_role("button", name="All", exact=True).click()
    np.testing.assert_array_equal(pixels(page), PALETTE[label])


def test_the_class_and_the_confidence_under_the_pointer(page):
    what, canvas = page.locator(".what"), page.locator("figure canvas")
    wait_for(page, lambda: page.evaluate("document.getElementById('confidence').checked"))
    box = canvas.bounding_box()
    scale = min(box["width"] / SIZE[1], box["height"] / SIZE[0])
    left, top = (box["width"] - SIZE[1] * scale) / 2, (box["height"] - SIZE[0] * scale) / 2
    page.mouse.move(box["x"] + left + 12.5 * scale, box["y"] + top + 4.5 * scale)
    wait_for(page, lambda: what.text_content() == "sidewalk · 39 % · x 12, y 4")
    page.mouse.move(box["x"] + left + 28.5 * scale, box["y"] + top + 4.5 * scale)
    assert what.text_content() == "unlabelled · 39 % · x 28, y 4"
    canvas.focus()
    canvas.press("ArrowLeft")
    assert what.text_content() == "building · 39 % · x 18, y 4"


def test_playing_ends_at_the_last_frame(page):
    page.keyboard.press(" ")
    page.get_by_text("4 / 4").wait_for()
    page.get_by_role("button", name="Play").wait_for()
    page.get_by_label("Frame", exact=True).fill("2")
    page.get_by_text("3 / 4").wait_for()


def test_every_control_has_a_name(page):
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, canvas')].filter((one) =>
          !one.labels?.length && !one.getAttribute('aria-label') && !one.textContent.trim()).length"""
    )
    assert unnamed == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(scheme, page):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    red, green, blue = map(int, page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)"))
    assert (max(red, green, blue) < 60) == (scheme == "dark")


def wait_for(page, condition) -> None:
    """Wait for a condition; pytest's limit ends it."""
    while not condition():
        page.wait_for_timeout(20)
