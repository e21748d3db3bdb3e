"""The parts of a page: curves, entries, neighbours, the map and the sheet of pictures."""

import base64
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.pages import HOSTILE, content_of

import lookalike
from lookalike import encoders
from lookalike.backbones import create
from lookalike.commands.report import evaluation_data, gallery, projection, run_data
from lookalike.commands.report.html import embedded, rendered
from lookalike.runs import Folder


def test_long_curves_keep_their_ends_and_spikes() -> None:
    points = [(float(i), 1.0) for i in range(50_000)]
    points[777], points[31_000] = (777.0, 9.0), (31_000.0, -9.0)
    kept = run_data.thinned(points)
    assert len(kept) <= run_data.POINTS_OF_A_CURVE
    assert [kept[0], kept[-1]] == [points[0], points[-1]]
    assert {points[777], points[31_000]} <= set(kept)
    assert kept == sorted(kept)
    assert run_data.thinned(points[:900]) == points[:900]


def test_curves_leave_out_what_is_not_finite_and_know_the_epoch() -> None:
    rows: list[dict[str, Any]] = [
        {"step": 0, "epoch": 0, "knn_top1": 0.1},
        {"step": 10, "epoch": 0, "loss": None, "lr": 0.1, "skipped": 0},
        {"step": 14, "epoch": 1, "loss": 2.0, "lr": 0.2, "skipped": 0, "verdict": "learning"},
    ]
    found = run_data.curves(rows)
    assert found["perEpoch"] == 14
    assert found["series"]["loss"] == {"x": [14], "y": [2.0]}
    assert set(found["series"]) == {"loss", "lr", "knn_top1"}
    assert run_data.curves([]) == {"perEpoch": None, "series": {}}


def test_confusions_come_most_often_first() -> None:
    triples = [(0, 0, 5.0), (0, 1, 2.0), (1, 0, 4.0), (1, 1, 1.0), (2, 1, 2.0)]
    assert evaluation_data.confused(triples) == [(1, 0, 4, 5), (0, 1, 2, 7), (2, 1, 2, 2)]
    names = [f"class {i}" for i in range(evaluation_data.MATRIX_CLASSES + 1)]
    entry = {"protocol": "knn", "top1": 0.5, "class_names": names, "confusion": [*map(list, triples)]}
    (shown,) = evaluation_data.evaluations([entry])
    assert shown["confusion"] == []
    assert len(shown["pairs"]) == 3


def test_confusions_of_several_draws_are_means() -> None:
    entry = {"protocol": "semi", "top1": 0.5, "class_names": ["a", "b"], "confusion": [[0, 0, 15], [0, 1, 5]]}
    (shown,) = evaluation_data.evaluations(
        [entry | {"accuracies": [0.5] * 10, "deviation": 0.03, "interval": [0.4, 0.6]}]
    )
    assert shown["confusion"] == [(0, 0, 1.5), (0, 1, 0.5)]
    assert shown["pairs"] == [(0, 1, 0.5, 2.0)]
    assert [shown["interval"], shown["deviation"], shown["draws"]] == [[0.4, 0.6], 0.03, 10]


def test_entries_of_before_read_on() -> None:
    entry = {"protocol": "knn", "top1": 0.5, "top5": 0.9, "interval": [0.4, 0.6], "settings": {"k": 20}, "classes": 3}
    (shown,) = evaluation_data.evaluations([entry, {"protocol": "linear", "top1": None}, "text"])
    assert [shown["title"], shown["settings"], shown["pairs"]] == ["k nearest neighbours", "k = 20", []]
    assert [shown["test_images"], shown["metrics"], shown["date"]] == [None, [], ""]


def test_odd_fields_of_an_entry_are_left_out() -> None:
    odd = {"interval": [0.4, math.nan], "confusion": [[0, 7, 1], "x"], "calibration": {"ece": math.nan}, "top5": "x",
           "per_class": [0.5, "x"], "class_names": None, "settings": [], "accuracies": None, "history": 5}  # fmt: skip
    (shown,) = evaluation_data.evaluations([{"protocol": "knn", "top1": 0.5} | odd])
    assert [shown["interval"], shown["confusion"], shown["top5"]] == [None, [], None]
    assert shown["calibration"] == {"ece": None, "bins": []}
    assert shown["per_class"] == [0.5, None]


def test_metrics_other_than_accuracy_have_their_own_titles() -> None:
    retrieval = {"protocol": "retrieval", "top1": 0.6, "history": [{"k": 1, "recall": 0.6}, {"k": 5, "recall": 0.8}]}
    old = {"retrieval": 0.95, "alignment": 0.4, "effective_rank": 40.0, "new": 1.5}  # as version 0.1 wrote them
    free = {"protocol": "label-free", "top1": 0.95}
    measures = old | {"recognition": 0.98}  # as before they were renamed
    now = {"view_retrieval": 0.95, "pair_auc": 0.98, "alignment": 0.4, "effective_rank": 40.0, "new": 1.5}
    found = evaluation_data.evaluations(
        [
            retrieval | {"measures": {"map": 0.41}},
            free | {"measures": old},
            free | {"measures": measures},
            free | {"measures": now},
        ]
    )
    first, second, third, fourth = ([(f["title"], f["value"]) for f in entry["metrics"]] for entry in found)
    assert first == [("Recall@1", 0.6), ("Recall@5", 0.8), ("Mean average precision", 0.41)]
    assert second == [("View recall@1", 0.95), ("Alignment", 0.4), ("Effective rank", 40.0), ("new", 1.5)]
    assert third == fourth == [("Pair AUC", 0.98), *second]
    assert all(f["note"] for f in found[0]["metrics"])


def test_neighbours_are_the_nearest_by_cosine_and_never_oneself() -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 5)
    x[1] = x[0] * 3  # the same direction
    found = projection.neighbours(x)
    unit = (x / x.norm(dim=1, keepdim=True)).numpy()
    for i, row in enumerate(found):
        cosines = unit @ unit[i]
        cosines[i] = -2
        np.testing.assert_allclose(cosines[row], np.sort(cosines)[::-1][:8], atol=1e-6)
    assert found[0, 0] == 1
    assert projection.neighbours(x[:3]).shape == (3, 2)


def test_a_map_puts_groups_apart_and_stays_in_its_square() -> None:
    torch.manual_seed(0)
    kinds = torch.arange(90) % 3
    x = torch.eye(3, 16)[kinds] * 4 + torch.randn(90, 16) * 0.3
    place = projection.project(x)
    assert place.xy.dtype == np.float32
    assert np.abs(place.xy).max() == pytest.approx(1, abs=1e-6)
    distance = ((place.xy[:, None] - place.xy[None]) ** 2).sum(2) + np.eye(90) * 9
    assert (kinds.numpy()[distance.argmin(1)] == kinds.numpy()).mean() > 0.95
    groups = projection.clusters(x, 3)
    assert len({(int(k), int(g)) for k, g in zip(kinds, groups)}) == 3
    np.testing.assert_array_equal(place.xy, projection.project(x).xy)  # the same again


@pytest.mark.parametrize("count", [2, 4, 6])
def test_a_map_of_few_images(count: int) -> None:
    torch.manual_seed(0)
    xy = projection.project(torch.randn(count, 7)).xy
    assert xy.shape == (count, 2)
    assert np.isfinite(xy).all()


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (torch.ones(9, 4), "All images have the same features"),
        (torch.full((9, 4), torch.nan), "not finite"),
        (torch.ones(1, 4), "needs at least 2 images"),
    ],
)
def test_what_cannot_be_mapped(features: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        projection.project(features)


def test_sheets_hold_every_image_in_its_place(tmp_path: Path) -> None:
    for i in range(projection.COLUMNS + 2):
        Image.new("RGB", (60, 80), (0, 200, 0) if i == projection.COLUMNS else (200, 0, 0)).save(
            tmp_path / f"{i:03}.png"
        )
    (tmp_path / "000.png").write_bytes(b"went away")
    source = gallery.source_of(tmp_path, create("test_byobnet", channels=3, image_size=32))
    made: Any = projection.sheets(source, list(range(len(source))), 32)
    (url,) = made["urls"]
    header, data = url.split(",", 1)
    assert header == "data:image/webp;base64"
    (tmp_path / "sheet.webp").write_bytes(base64.b64decode(data))
    sheet = np.asarray(Image.open(tmp_path / "sheet.webp").convert("RGB")).astype(int)
    assert sheet.shape == (64, projection.COLUMNS * 32, 3)
    assert np.ptp(sheet[16, 16]) < 20  # grey: the broken one
    assert sheet[16, 48].argmax() == 0
    assert sheet[48, 16].argmax() == 1  # the first of the second row


@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_other_channels_are_mapped(channels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = create("test_resnet", channels=channels, image_size=32)
    (tmp_path / "run").mkdir()
    encoders.save(Folder(tmp_path / "run"), made, method="simclr", epochs=1, dtype=torch.uint8)
    for i in range(6):
        np.save(tmp_path / f"{i}.npy", np.random.default_rng(i).integers(0, 255, (channels, 40, 40), np.uint8))
    page = lookalike.report(tmp_path / "run", images=tmp_path)
    assert len(content_of(page, "maps")["sets"][0]["names"]) == 6


def test_nothing_ends_the_element_that_holds_the_content() -> None:
    text = "</script><script>alert(1)</script><!-- & \u2028"
    inside = embedded({"name": text})
    assert not set("<>&") & set(inside)
    assert json.loads(inside) == {"name": text.replace("\u2028", "\\u2028")}
    page = rendered(HOSTILE, {"report": {"name": HOSTILE}, "maps": {}})
    assert HOSTILE not in page
    assert "&lt;img" in page
