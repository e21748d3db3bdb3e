"""The page of `lookalike report` in a real browser: Debian's chromium, without a window, driven by Selenium."""

import base64
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.pages import HOSTILE, comparison, content_of, made_run

import lookalike
from lookalike.commands.report.html import rendered

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.long(6),
    pytest.mark.page,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="needs a browser: apt-get install chromium chromium-driver"
    ),
]

PLACE = "const m = document.getElementById('map').embeddingMap; "
STILL = "document.documentElement.style.scrollBehavior = 'auto'; "


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    return lookalike.report(run)


def opened(page: Path, width: int, height: int = 900, *, phone: bool = False) -> Any:
    """A browser that shows the page; no network is there for it."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        f"--window-size={width},{height}",
    ):  # fmt: skip
        options.add_argument(argument)
    if phone:
        metrics = {"width": width, "height": height, "pixelRatio": 2.0, "touch": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    browser.get(page.absolute().as_uri())
    settled(browser, "return document.querySelectorAll('main section').length > 0")
    return browser


def settled(browser: Any, condition: str, seconds: float = 20) -> Any:
    """Waits until a script returns something true."""
    deadline = time.monotonic() + seconds
    while not (found := browser.execute_script(condition)):
        assert time.monotonic() < deadline, f"never true: {condition}"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def desktop(page: Path) -> Iterator[Any]:
    browser = opened(page, 1280)
    yield browser
    browser.quit()


@pytest.fixture
def browser(desktop: Any) -> Iterator[Any]:
    """The page as it was first opened."""
    desktop.refresh()
    settled(desktop, PLACE + "return m.took !== undefined && m.images.pictures.every(p => p.naturalWidth > 0)")
    desktop.execute_script(STILL + "document.getElementById('map-section').scrollIntoView()")
    yield desktop
    severe = [entry["message"] for entry in desktop.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []


def pixels(browser: Any) -> np.ndarray:
    """The canvas of the map, (H, W, 4)."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(() => arguments[0]()))")
    url = browser.execute_script("return document.getElementById('map').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA")).astype(int)


def dots(browser: Any) -> int:
    """Pixels of the map that are not background."""
    image = pixels(browser)
    return int((np.abs(image - image[0, 0]).sum(2) > 30).sum())


def pointer(browser: Any, *path: tuple[float, float]) -> ActionChains:
    """Moves to positions on the map, in its own pixels."""
    canvas = browser.find_element(By.ID, "map")
    width, height = browser.execute_script(PLACE + "return [m.width, m.height]")
    actions = ActionChains(browser, duration=20)
    for x, y in path:
        actions.move_to_element_with_offset(canvas, round(x - width / 2), round(y - height / 2))
    return actions


def text(browser: Any, name: str) -> str:
    return str(browser.execute_script("return document.getElementById(arguments[0]).innerText", name))


def test_it_shows_every_section_and_loads_every_picture(browser: Any) -> None:
    titles = [h.text for h in browser.find_elements(By.TAG_NAME, "h2")]
    assert titles == [
        "Training curves", "Evaluation", "Map of the embedding", "Nearest neighbours", "Views, attention and features",
        "How to use the encoder",
    ]  # fmt: skip
    links = browser.execute_script("return [...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")
    assert all(browser.find_elements(By.CSS_SELECTOR, link) for link in links)
    widths = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 3
    assert min(widths) >= 100
    assert browser.execute_script("return document.querySelectorAll('.plot svg path').length") >= 5
    assert browser.execute_script("return document.querySelectorAll('.matrix svg rect').length") >= 5


def test_no_request_leaves_the_page(page: Path, browser: Any) -> None:
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    refused = browser.execute_async_script(
        "const d = arguments[0]; fetch('https://example.org').then(() => d(false), () => d(true))"
    )
    assert refused
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_hostile_names_are_text(browser: Any) -> None:
    assert browser.execute_script("return document.querySelectorAll('img[src=x], main script').length") == 0
    assert HOSTILE in text(browser, "map-section")
    pointed = browser.execute_script(PLACE + "return m.images.names.findIndex(n => n.startsWith('cats/<img'))")
    browser.execute_script(PLACE + "m.look(arguments[0])", pointed)
    assert f"cats/{HOSTILE}.jpg" in text(browser, "panel")
    with pytest.raises(Exception, match="no such alert"):
        _ = browser.switch_to.alert


def test_pointing_at_a_dot_shows_the_image_and_its_neighbours(browser: Any) -> None:
    assert dots(browser) > 200
    place = browser.execute_script(PLACE + "return m.place(3)")
    name = browser.execute_script(PLACE + "return m.images.names[m.at(...arguments[0], 14)]", place)
    pointer(browser, place).perform()
    settled(browser, PLACE + "return m.focus >= 0")
    assert name in text(browser, "panel")
    assert len(browser.find_elements(By.CSS_SELECTOR, "#near .thumb")) == 8
    painted = (
        "return [...document.querySelectorAll('#panel canvas')].every(c => "
        "new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size > 8)"
    )
    settled(browser, painted)
    pointer(browser, place).click().perform()
    other = browser.execute_script("return document.querySelector('#near .thumb').title")
    browser.find_element(By.CSS_SELECTOR, "#near .thumb").click()  # goes on to the neighbour
    assert other in text(browser, "panel")
    pointer(browser, (5.0, 5.0)).perform()  # pinned: moving away keeps it
    assert other in text(browser, "panel")


def test_an_image_of_the_neighbours_is_shown_on_the_map(browser: Any) -> None:
    thumbnail = browser.find_elements(By.CSS_SELECTOR, "#sheet .thumb")[3]
    name = thumbnail.get_attribute("title")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", thumbnail)
    thumbnail.click()
    assert name in text(browser, "panel")
    assert browser.execute_script(PLACE + "return m.pinned && m.images.names[m.focus]") == name
    assert browser.execute_script(PLACE + "return Math.abs(m.root.getBoundingClientRect().top) < 200")


def test_the_keyboard_takes_the_image_in_the_middle(browser: Any) -> None:
    browser.execute_script(PLACE + "const [x, y] = m.place(5); m.pan(m.width / 2 - x, m.height / 2 - y)")
    browser.find_element(By.ID, "map").send_keys(Keys.ENTER)
    distance = "const d = i => Math.hypot(m.place(i)[0] - m.width / 2, m.place(i)[1] - m.height / 2); "
    assert browser.execute_script(PLACE + distance + "return m.focus >= 0 && d(m.focus) <= d(5)")
    browser.find_element(By.ID, "map").send_keys(Keys.ESCAPE)
    assert browser.execute_script(PLACE + "return m.focus") == -1


def test_colours_and_the_legend_react(browser: Any) -> None:
    before, found = pixels(browser), dots(browser)
    keys = browser.find_elements(By.CSS_SELECTOR, ".legend .key")
    assert len(keys) == 3
    keys[0].click()
    assert keys[0].get_attribute("aria-pressed") == "false"
    assert dots(browser) < found
    browser.find_element(By.XPATH, "//div[@class='legend']//button[text()='None']").click()
    assert dots(browser) == 0
    browser.find_element(By.XPATH, "//div[@class='legend']//button[text()='All']").click()
    np.testing.assert_array_equal(pixels(browser), before)
    for value, groups in (("one", 1), ("cluster", 3)):
        browser.find_element(By.CSS_SELECTOR, f"#colour option[value={value}]").click()
        assert len(browser.find_elements(By.CSS_SELECTOR, ".legend .key")) == groups
    assert not np.array_equal(pixels(browser), before)


def test_the_lasso_chooses_and_counts(browser: Any) -> None:
    width, height = browser.execute_script(PLACE + "return [m.width, m.height]")
    browser.find_element(By.ID, "lasso").click()
    actions = pointer(browser, (3, 3)).click_and_hold()
    canvas = browser.find_element(By.ID, "map")
    for x, y in ((width - 3, 3), (width - 3, height - 60), (3, height - 60)):
        actions.move_to_element_with_offset(canvas, round(x - width / 2), round(y - height / 2))
    actions.release().perform()
    inside = browser.execute_script(
        PLACE + "return [...Array(m.count).keys()].filter(i => m.place(i)[1] < arguments[0]).length", height - 60
    )
    assert text(browser, "chosen") == f"{inside} images selected"
    assert len(browser.find_elements(By.CSS_SELECTOR, "#panel .thumb")) == inside
    assert "cats" in text(browser, "panel")
    assert "null" not in text(browser, "panel")
    browser.execute_script(
        "document.execCommand = () => true; navigator.clipboard.writeText = async t => { window.copied = t; }"
    )
    browser.find_element(By.XPATH, "//button[text()='Copy names']").click()
    assert len(settled(browser, "return window.copied").split("\n")) == inside
    browser.find_element(By.XPATH, "//button[text()='Clear']").click()
    assert browser.execute_script(PLACE + "return m.chosen") is None


def test_it_zooms_and_moves(browser: Any) -> None:
    home = browser.execute_script(PLACE + "return [m.scale, m.x]")
    before = browser.execute_script(PLACE + "return m.place(0)")
    browser.execute_script(
        PLACE + "m.canvas.dispatchEvent(new WheelEvent('wheel', {deltaY: -400, bubbles: true, cancelable: true}))"
    )
    assert browser.execute_script(PLACE + "return m.scale") > 1.5 * home[0]
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Show all']").click()
    assert browser.execute_script(PLACE + "return m.place(0)") == pytest.approx(before)
    canvas = browser.find_element(By.ID, "map")
    ActionChains(browser).move_to_element(canvas).click_and_hold().move_by_offset(50, 20).release().perform()
    assert browser.execute_script(PLACE + "return m.place(0)") == pytest.approx(
        [before[0] + 50, before[1] + 20], abs=1.5
    )


def test_curves_are_read_together(browser: Any) -> None:
    plot = browser.find_element(By.CSS_SELECTOR, "#curves .plot")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    ActionChains(browser).move_to_element(plot).perform()
    read = [e.text for e in browser.find_elements(By.CSS_SELECTOR, "#curves > .grid .read")]
    assert all(line.startswith("Step ") for line in read)
    browser.find_element(By.XPATH, "//button[text()='Epochs']").click()
    assert "epoch" in browser.find_element(By.CSS_SELECTOR, "#curves svg").text


def test_a_cell_of_the_matrix_is_read(browser: Any) -> None:
    cell = browser.find_elements(By.CSS_SELECTOR, ".matrix svg rect")[1]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", cell)
    ActionChains(browser).move_to_element(cell).perform()
    words = browser.find_element(By.CSS_SELECTOR, ".matrix .read").text
    assert words == f"Of 4 images of {HOSTILE}, 3 (75.0 %) were predicted as {HOSTILE}."


def test_dark_and_light(browser: Any) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    first, map_first = browser.execute_script(ground), pixels(browser)[0, 0, :3].mean()
    browser.find_element(By.ID, "theme").click()
    second, map_second = browser.execute_script(ground), pixels(browser)[0, 0, :3].mean()
    assert first != second
    assert abs(map_first - map_second) > 150  # the canvas follows
    browser.find_element(By.ID, "theme").click()
    assert browser.execute_script(ground) == first
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    browser.execute_script("localStorage.clear(); document.documentElement.style.colorScheme = ''")
    assert browser.execute_script(ground) == max(first, second, key=lambda c: c != "rgb(250, 250, 249)")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def fits(browser: Any) -> bool:
    """Whether nothing makes the page scroll sideways."""
    return bool(
        browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    )


@pytest.mark.parametrize(("width", "phone"), [(1280, False), (390, True)])
def test_what_is_too_wide_is_seen(width: int, phone: bool, page: Path) -> None:
    browser = opened(page, width, phone=phone)
    try:
        assert fits(browser)
        browser.execute_script(
            "const e = document.createElement('div'); e.style.width = '1400px'; e.style.height = '20px'; "
            "document.querySelector('main').append(e)"
        )
        assert not fits(browser)
    finally:
        browser.quit()


def test_a_phone_shows_all_of_it_and_answers_a_finger(page: Path) -> None:
    browser = opened(page, 390, 844, phone=True)
    try:
        settled(browser, PLACE + "return m.took !== undefined")
        assert browser.execute_script("return window.innerWidth") == 390
        assert fits(browser)
        assert dots(browser) > 200
        browser.execute_script(STILL + "document.getElementById('map').scrollIntoView({block: 'center'})")
        x, y = browser.execute_script(
            PLACE + "const b = m.canvas.getBoundingClientRect(), p = m.place(2); return [b.left + p[0], b.top + p[1]]"
        )
        for kind, touches in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
        settled(browser, "return document.querySelectorAll('#near .thumb').length === 8")
        scale = browser.execute_script(PLACE + "return m.scale")
        for kind, gap in (("touchStart", 20), ("touchMove", 50), ("touchMove", 80)):
            points = [{"x": 195 - gap, "y": y, "id": 0}, {"x": 195 + gap, "y": y, "id": 1}]
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert browser.execute_script(PLACE + "return m.scale") > 2 * scale
        for details in browser.find_elements(By.TAG_NAME, "details"):
            browser.execute_script("arguments[0].open = true", details)
        assert fits(browser)
        assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    finally:
        browser.quit()


@pytest.fixture(scope="module")
def make_comparison(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    return lambda: comparison(tmp_path_factory.mktemp("compared") / "compare", run)


def test_a_comparison_at_both_widths(make_comparison: Callable[[], Path]) -> None:
    page = lookalike.report(make_comparison(), points=8)
    for width, phone in ((1280, False), (390, True)):
        browser = opened(page, width, phone=phone)
        try:
            ranking = browser.find_element(By.CSS_SELECTOR, "section").text
            assert f"Take byol, not {HOSTILE}." in ranking
            assert "takes a ViT" in ranking
            missing = [w for w in ("saw fewer images", "unstable", "untrained", "31.0") if w not in ranking]
            assert missing == []
            assert len(browser.find_elements(By.CSS_SELECTOR, ".ranking td[data-title=Epochs]")) == 3
            assert "top‑1 by k-NN, mean over tests and seeds" in ranking
            assert "Ranges are from version 0.1" in ranking  # its compare.json has no error rate
            assert len(browser.find_elements(By.CSS_SELECTOR, "#scatter-0 .baseline")) == 1
            assert "Encoder: byol-seed0." in text(browser, "map-section")
            assert "Run: byol-seed0." in text(browser, "use")
            assert len(browser.find_elements(By.CSS_SELECTOR, "#runs .key")) == 2
            assert fits(browser)
            browser.execute_script("arguments[0].click()", browser.find_element(By.CSS_SELECTOR, "#runs .key"))
            assert browser.execute_script("return document.querySelectorAll('#curves .plot svg path').length") >= 1
            assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
        finally:
            browser.quit()


def seen(browser: Any) -> list[str]:
    """What the browser's console says is wrong."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_many_methods_under_a_time_budget(run: Path, tmp_path: Path) -> None:
    methods = tuple(f"method_{n:02}" for n in range(12))
    folder = comparison(tmp_path / "many", run, methods, seeds=2, minutes=1)
    browser = opened(lookalike.report(folder, points=8), 390, phone=True)
    try:
        assert fits(browser)
        keys = browser.find_elements(By.CSS_SELECTOR, "#runs .key")
        assert [k.text for k in keys] == [f"{method} (2 seeds)" for method in methods]
        looks = {k.find_element(By.TAG_NAME, "svg").get_attribute("innerHTML") for k in keys}
        assert len(looks) == 12
        lines = "return document.querySelector('#curves .plot').querySelectorAll('svg path[fill=none]').length"
        assert settled(browser, lines) == 24
        browser.execute_script("arguments[0].click()", keys[11])
        assert browser.execute_script(lines) == 22  # both seeds
        assert len(browser.find_elements(By.CSS_SELECTOR, "#dots-0 svg .baseline")) == 1
        assert browser.find_elements(By.CSS_SELECTOR, "[id^=scatter]") == []
        rows = browser.find_elements(By.CSS_SELECTOR, "#evaluation .card > .scroll tbody tr")
        assert len(rows) == 12
        options = [o.text for o in browser.find_elements(By.CSS_SELECTOR, "#detail option")]
        assert options
        assert all(o.startswith("method_00-seed0: ") for o in options)
        assert seen(browser) == []
    finally:
        browser.quit()


def test_entries_of_before_and_other_figures_are_shown(run: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run, old, ignore=shutil.ignore_patterns("checkpoints", "encoder.safetensors"))
    long = {"class_names": [f"{'a_name_without_a_space_' * 7}{i}" for i in range(13)]}
    confusion = {"confusion": [[i, (i + 1) % 13, 3] for i in range(13)]}
    entries = [
        {"protocol": "knn", "top1": 0.5, "settings": {"k": 20}, "classes": 3, **long, **confusion},
        {"protocol": "semi", "top1": 0.25, "interval": [0.2, 0.3], "deviation": 0.03, "accuracies": [0.25] * 10},
        {"protocol": "label-free", "top1": 0.95, "measures": {"alignment": 0.4}, "test_images": 500},
        {"protocol": "label-free", "top1": 0.94, "measures": {"alignment": 0.3, "recognition": 0.98}, "seed": 1},
    ]
    (old / "evaluation.json").write_text(json.dumps(entries))
    browser = opened(lookalike.report(old), 390, phone=True)
    try:
        confused = browser.find_element(By.XPATH, "//h3[text()='Most frequent confusions']/..")
        inner = "const t = arguments[0].querySelector('.scroll'); return t.scrollWidth <= t.clientWidth"
        assert browser.execute_script(inner, confused)
        assert fits(browser)
        said = text(browser, "evaluation")
        assert "50.0" in said
        assert "over 10 draws" in said
        assert "20.0\u00a0% to 30.0\u00a0%" in said.replace(" %", "\u00a0%")
        own = text(browser, "metrics-label-free")
        assert "View recall@1" in own
        assert "Squared distance between two views" in own
        assert own.index("Pair AUC") < own.index("View recall@1") < own.index("Alignment")  # the older lacks one
        assert "Without labels" not in browser.find_element(By.CSS_SELECTOR, ".tiles").text
        assert seen(browser) == []
    finally:
        browser.quit()


def test_a_part_that_fails_leaves_the_others(page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    content = content_of(page)
    broken.write_text(rendered("broken", {"report": content, "maps": {"sets": [], "maps": [{"images": 0}]}}))
    browser = opened(broken, 1280)
    try:
        (failure,) = browser.find_elements(By.CLASS_NAME, "failure")
        assert failure.text.startswith("This part could not be shown: the map")
        assert [h.text for h in browser.find_elements(By.TAG_NAME, "h2")][-1] == "How to use the encoder"
        assert browser.find_elements(By.CSS_SELECTOR, "nav a")
    finally:
        browser.quit()
