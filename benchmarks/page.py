"""How smoothly the map of a page moves and zooms, in a real browser without a window or a GPU.

    lookalike report RUN --images FOLDER --points 20000 --out big.html
    python benchmarks/page.py big.html [--seconds 5 --repeats 3]

Needs chromium, chromedriver and selenium. The map is zoomed about a moving place once per frame; the time between
frames is what a user sees, that of `paint` what our code takes of it. A line of JSON goes to --record.
"""

import argparse
import os
import platform
import shutil
import time
from pathlib import Path

import numpy as np
from rows import append
from selenium import webdriver

from lookalike.runs import commit

MOVE = """
const [seconds, done] = arguments, map = document.getElementById('map').embeddingMap, canvas = map.canvas;
const box = canvas.getBoundingClientRect(), x = box.left + box.width / 2, y = box.top + box.height / 2;
const paints = [], frames = [], paint = map.paint.bind(map);
map.paint = () => { const t = performance.now(); paint(); paints.push(performance.now() - t); };
const begun = performance.now();
let last = begun, n = 0;
const step = (now) => {
  if (n) frames.push(now - last);
  last = now;
  const turn = { deltaY: Math.sin(n / 10) * 40, clientX: x + n % 50, clientY: y, bubbles: true, cancelable: true };
  canvas.dispatchEvent(new WheelEvent('wheel', turn));
  n += 1;
  if (now - begun < 1000 * seconds) requestAnimationFrame(step); else done([frames, paints]);
};
canvas.scrollIntoView(); requestAnimationFrame(step);
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", type=Path, default=Path(__file__).parent / "records" / "page.jsonl")
    args = parser.parse_args()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    browser.set_script_timeout(args.seconds + 60)
    browser.get(args.page.absolute().as_uri())
    time.sleep(3)
    points = browser.execute_script("return document.getElementById('map').embeddingMap.count")
    found = [browser.execute_async_script(MOVE, args.seconds) for _ in range(args.repeats)]
    version = browser.capabilities["browserVersion"]
    browser.quit()
    row = {
        "benchmark": "page",
        "points": points,
        "mib": round(args.page.stat().st_size / 2**20, 1),
        "repeats": args.repeats,
        "frame_ms": [[round(float(np.percentile(frames, q)), 1) for q in (50, 95)] for frames, _ in found],
        "paint_ms": [[round(float(np.percentile(paints, q)), 1) for q in (50, 95)] for _, paints in found],
        "chromium": version,
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
        "lookalike": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(row)
    append(args.record, row)


if __name__ == "__main__":
    main()
