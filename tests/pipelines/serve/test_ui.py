"""The chat page in a real browser, on a real endpoint: empty, answering, answered, error; wide and on a phone.

LONGVU_SCREENSHOTS=FOLDER keeps pictures of each.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longvu_model.video import decode_frames
from pipelines.serve.filmstrip import filmstrip
from pipelines.serve.guard import MediaPolicy
from tests.pipelines.conftest import write_video
from tests.pipelines.serve.endpoint import PATIENCE_S, LiveEndpoint

SCENES_S = [18, 12, 15]
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="chromium or chromedriver is not installed"
)


def wait(browser: Any, condition: Any) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, PATIENCE_S).until(condition)


def found(browser: Any, selector: str) -> Any:
    """The first such element as soon as there is one on the page."""
    return wait(browser, lambda b: next(iter(b.find_elements("css selector", selector)), None))


def text_of(browser: Any, selector: str) -> str:
    """What is written in all such elements."""
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('|')"
    return str(browser.execute_script(script, selector))


def picture(browser: Any, name: str) -> None:
    if folder := os.environ.get("LONGVU_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture(params=[1280, 360], ids=["wide", "phone"])
def browser(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    options.add_argument(f"--user-data-dir={tmp_path}")
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    if request.param < 500:
        metrics = {"width": request.param, "height": 780, "pixelRatio": 2}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    driver.set_window_size(request.param, 860)
    driver.test_name = request.node.callspec.id
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough to be seen being watched."""
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", SCENES_S, seed=5)


@needs_browser
def test_page(browser: Any, endpoint: LiveEndpoint, film: Path, tmp_path: Path) -> None:
    host = endpoint.url.removeprefix("http://")
    browser.get(f"http://visitor:{endpoint.key}@{host}/ui/")  # the browser remembers the key for what follows
    browser.get(f"{endpoint.url}/ui/")
    name = browser.test_name

    question = found(browser, "#lv-ask textarea")
    assert "Ask about a long video" in wait(browser, lambda b: text_of(b, "#lv-chat"))
    picture(browser, f"{name}-1-empty")

    question.send_keys("Where?")
    # Keys that come before the page listens are lost.
    assert "Drop a video" in wait(browser, lambda b: text_of(b, ".lv-error") or question.send_keys("\n"))

    broken = tmp_path / "list.mp4"
    broken.write_text("This is a shopping list.\n" * 50)
    found(browser, "#lv-drop input[type=file]").send_keys(str(broken))
    assert "not a video" in wait(browser, lambda b: "Drop" not in text_of(b, ".lv-error") and text_of(b, ".lv-error"))
    assert str(tmp_path) not in text_of(browser, "body")
    picture(browser, f"{name}-4-error")

    found(browser, "#lv-drop input[type=file]").send_keys(str(film))
    player = found(browser, "#lv-player")
    wait(browser, lambda b: not text_of(b, ".lv-error"))
    assert wait(browser, lambda b: b.execute_script("return arguments[0].duration", player)) == pytest.approx(
        sum(SCENES_S), abs=1
    )

    question = found(browser, "#lv-ask textarea")
    question.clear()
    question.send_keys("Which colour does the shape have?\n")
    wait(browser, lambda b: "Which colour" in text_of(b, "#lv-chat .user-row"))
    wait(browser, lambda b: text_of(b, ".lv-busy") or text_of(b, ".lv-facts"))
    picture(browser, f"{name}-2-answering")
    wait(browser, lambda b: b.find_elements("css selector", ".lv-strip img"))
    facts = wait(browser, lambda b: text_of(b, ".lv-facts"))
    picture(browser, f"{name}-3-answered")
    assert "frames kept" in facts and "visual tokens" in facts
    assert text_of(browser, "#lv-chat .bot-row").strip()
    times = text_of(browser, ".lv-strip time").split("|")
    assert times[0] == "0:00" and times == sorted(times) and f"{len(times)} of" in text_of(browser, ".lv-strip-title")
    assert browser.execute_script("return document.querySelector('.lv-strip img').naturalWidth") > 100

    found(browser, ".lv-strip button:last-child").click()
    minutes, seconds = times[-1].split(":")
    shown = browser.execute_script("return arguments[0].currentTime", player)
    assert int(shown) == int(minutes) * 60 + int(seconds)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")

    question.send_keys("And when?\n")
    wait(browser, lambda b: "video seen before" in text_of(b, ".lv-facts"))
    wait(browser, lambda b: len(b.find_elements("css selector", "#lv-chat .user-row")) == 2)
    assert asked_elsewhere(browser, host) == []


def asked_elsewhere(browser: Any, host: str) -> list[str]:
    """Addresses beyond the endpoint that the page has asked for."""
    asked = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(str(message["params"]["request"]["url"]))
    assert any(host in url for url in asked)
    own = (f"http://{host}", "data:", "blob:", "chrome")
    return [url for url in asked if not url.startswith(own) and f"@{host}" not in url]


@pytest.mark.parametrize(
    ("times_s", "num_sampled"), [([0.0, 3.0, 12.0], 20), ([0.0, 6.5, 19.75], 4), ([0.25, 1.5], 80)]
)
def test_filmstrip(clip: Path, times_s: list[float], num_sampled: int) -> None:
    """The frames of those very times, whichever rule gave them."""
    import io

    import numpy as np
    from PIL import Image

    stills = filmstrip(clip, times_s, num_sampled, MediaPolicy())
    assert [still.time_s for still in stills] == times_s
    whole = decode_frames(clip, "fps:1000")
    for still in stills:
        expected = whole.frames[np.abs(whole.pts_s - still.time_s).argmin()]
        shown = Image.open(io.BytesIO(still.jpeg))
        assert shown.size == (192, 128)
        small = np.asarray(Image.fromarray(expected).resize(shown.size, Image.Resampling.BICUBIC))
        assert np.abs(np.asarray(shown).astype(float) - small).mean() < 12


def test_a_long_filmstrip_is_thinned(clip: Path) -> None:
    stills = filmstrip(clip, [float(second) for second in range(20)], 20, MediaPolicy(), most=5)
    assert [still.time_s for still in stills] == [0.0, 5.0, 10.0, 14.0, 19.0]
    assert filmstrip(clip, [], 0, MediaPolicy()) == []
