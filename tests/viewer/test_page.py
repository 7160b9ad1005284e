"""The page: it opens without a network, shows what is in the volume, answers mouse and keys."""

import json
import re

import numpy as np
import pytest

from tests.viewer import browser
from tokenunify_scale.config import DataError
from tokenunify_scale.viewer.colours import object_colours, segment_colours
from tokenunify_scale.viewer.page import write_viewer

BIG = 2**64 - 59  # an id that is no exact number in JavaScript
QUARTERS = np.kron(np.array([[1, 2], [3, BIG]], np.uint64), np.ones((20, 20), np.uint64))
IDS = np.stack([np.full((40, 40), 7, np.uint64), *[QUARTERS] * 5])
OPEN = {"voxel_size": (35, 8, 8), "title": "a <b>title</b>", "raw": None}


def where(picture, colour):
    """Rows and columns of the pixels of the xy panel that have a colour."""
    near = np.abs(picture - np.asarray(colour) / 255).max(-1) < 1.5 / 255
    near[530:], near[:, 770:] = False, False  # the other panels, and the lists
    return np.nonzero(near)


def test_a_screenshot_shows_each_segment_in_its_colour_and_at_its_place(tmp_path):
    write_viewer(tmp_path / "v.html", segmentation=IDS, **OPEN)
    picture = browser.screenshot(tmp_path / "v.html", tmp_path)
    ids = [1, 2, 3, BIG]
    places = [where(picture, c) for c in segment_colours(np.array(ids, np.uint64))]
    areas = [rows.size for rows, _ in places]
    assert min(areas) > 20000 and max(areas) < 1.1 * min(areas)
    (y1, x1), (y2, x2), (y3, x3), (y4, x4) = ((r.mean(), c.mean()) for r, c in places)
    assert x2 - x1 > 100 and y3 - y1 > 100
    assert x1 == pytest.approx(x3, abs=10) and x2 == pytest.approx(x4, abs=10)
    assert y1 == pytest.approx(y2, abs=10) and y3 == pytest.approx(y4, abs=10)
    # Voxels are squares in plane: a quarter is as wide as it is high.
    rows, columns = places[0]
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=3)


def test_colours_lie_over_the_raw_image(tmp_path):
    raw = np.full(IDS.shape, 100, np.uint8)
    raw[:, :2] = 0
    raw[:, 2:4] = 200
    write_viewer(tmp_path / "v.html", segmentation=IDS, **OPEN | {"raw": raw})
    picture = browser.screenshot(tmp_path / "v.html", tmp_path)
    for colour in segment_colours(np.array([1, 2, 3, BIG], np.uint64)):
        assert where(picture, 0.4 * colour + 0.6 * 127.5)[0].size > 15000


def test_errors_have_the_colours_of_the_legend_and_what_is_right_has_none(tmp_path):
    labels = np.stack([QUARTERS] * 6)
    wrong = labels * np.uint64(1)
    wrong[:, 11:20, :20] = 11  # cut off object 1
    wrong[:, :20, 20:] = 3  # object 2, joined to 3
    wrong[:, 30:, 20:] = 0
    write_viewer(tmp_path / "v.html", segmentation=wrong, labels=labels, **OPEN)
    picture = browser.screenshot(tmp_path / "v.html", tmp_path, fragment="#view=errors")
    places = {name: where(picture, c) for name, c in {
        "split": (0, 115, 178), "merge": (214, 94, 0),
        "missed": (240, 227, 66), "right": (38, 43, 50),
    }.items()}  # fmt: skip
    middle = {name: (rows.mean(), columns.mean()) for name, (rows, columns) in places.items()}
    assert all(rows.size > 8000 for rows, _ in places.values())
    assert middle["merge"][0] < middle["missed"][0] and middle["split"][0] < middle["missed"][0]
    assert middle["split"][1] + 100 < middle["merge"][1]
    assert middle["merge"][1] == pytest.approx(middle["missed"][1], abs=5)


def test_the_pointer_finds_exact_ids_and_coordinates_of_the_source(tmp_path):
    write_viewer(tmp_path / "v.html", segmentation=IDS, labels=IDS, **OPEN, origin=(100, 200, 300))
    found = browser.found(
        tmp_path / "v.html",
        tmp_path,
        """
        mouse("pointermove", "xy", 0.6, 0.6);
        const over = by("pointer").textContent.replace(/\\s+/g, " ");
        click("xy", 0.6, 0.6);
        await settled();
        return { over, cross: cross(), nm: by("nm").textContent, title: document.title };
        """,
    )
    assert found["title"] == "a <b>title</b>"
    assert f"segment {BIG}" in found["over"] and f"truth {BIG}" in found["over"]
    z, y, x = found["cross"]
    assert z == 103 and 220 < y < 230 and 320 < x < 330
    assert f"z {z} y {y} x {x}" in found["over"]
    assert found["nm"].startswith(f"{z * 35}, {y * 8}, {x * 8} nm")


def test_wheel_keys_search_and_picks_do_what_they_say(tmp_path):
    points = [
        {"z": 3, "y": 5, "x": 6, "text": "<i>here</i>"},
        {"z": 99, "y": 0, "x": 0, "text": ""},
    ]
    write_viewer(tmp_path / "v.html", segmentation=IDS, **OPEN, points=points)
    found = browser.found(
        tmp_path / "v.html",
        tmp_path,
        f"""
        const out = {{ start: cross(), place: by("list").textContent.replace(/\\s+/g, " ") }};
        const then = async (name, act) => {{ act(); await settled(); out[name] = cross(); }};
        by("list").querySelector(".row").click();
        await then("point", () => 0);
        await then("wheel", () => mouse("wheel", "xy", 0.5, 0.5, {{ deltaY: 100 }}));
        await then("keys", () => {{ key("ArrowLeft"); key("ArrowDown"); key("PageUp"); }});
        await then("rim", () => {{ for (let i = 0; i < 99; i++) key("ArrowRight"); }});
        by("tabs").querySelector("button").click();
        by("search").value = "{BIG}";
        by("search").dispatchEvent(new KeyboardEvent("keydown", {{ key: "Enter" }}));
        await then("search", () => 0);
        out.picked = by("picked").textContent;
        key("i"); key("b"); key(" ");
        await settled();
        out.checks = ["isolate", "lines-only"].map((id) => by(id).checked);
        out.view = document.querySelector("#views .on").textContent;
        key(" "); key("Escape"); key("b");
        mouse("dblclick", "xy", 0.4, 0.4);
        await settled();
        out.second = by("picked").textContent;
        out.state = document.body.dataset.state;
        return out;
        """,
    )
    assert found["start"] == [3, 20, 20] and found["place"].strip() == "1<i>here</i> 3, 5, 6"
    assert found["point"] == [3, 5, 6] and found["wheel"] == [4, 5, 6]
    assert found["keys"] == [3, 6, 5] and found["rim"] == [3, 6, 39]
    z, y, x = found["search"]
    assert z >= 1 and y >= 20 and x >= 20 and found["picked"] == f"picked: {BIG}"
    assert found["checks"] == [True, True] and found["view"] == "None"
    assert found["second"] == "picked: 1" and found["state"] == "ready"


def test_more_ids_than_16_bits_hold_are_shown(tmp_path):
    ids = np.arange(2 * 200 * 200, dtype=np.uint32).reshape(2, 200, 200)
    write_viewer(tmp_path / "v.html", segmentation=ids, **OPEN)
    at = {"fragment": "#at=1,150,20&id=79999"}
    found = browser.found(
        tmp_path / "v.html",
        tmp_path,
        'await settled(); return by("pointer").textContent + by("picked").textContent',
        **at,
    )
    assert f"segment  {ids[1, 150, 20]}" in found and "picked: 79999" in found


def test_what_is_too_large_is_thinned_and_the_page_says_so(tmp_path):
    ids = np.kron(IDS, np.ones((1, 4, 4), np.uint64))
    factors = write_viewer(tmp_path / "v.html", segmentation=ids, **OPEN, limit=IDS.size * 2)
    assert factors == (1, 4, 4)
    found = browser.found(
        tmp_path / "v.html",
        tmp_path,
        """
        by("at-x").value = 100; by("at-x").dispatchEvent(new Event("change"));
        await settled();
        const said = (id) => by(id).textContent;
        return { thinned: said("thinned"), cross: cross(), facts: said("facts") };
        """,
    )
    assert "1 x 4 x 4" in found["thinned"] and found["facts"].startswith("6 x 160 x 160 voxels")
    assert found["cross"] == [3, 82, 102]


def test_the_page_asks_for_nothing_and_no_text_of_the_user_ends_its_script(tmp_path):
    path = write_page(tmp_path, title="</script><script>alert(1)</script>")
    text = path.read_text()
    told = json.loads(re.search(r'id="told">(.*?)</script>', text)[1])
    assert told["title"] == "</script><script>alert(1)</script>"
    assert not re.search(r"(src|href)\s*=|url\(|import\(|fetch\(|https?://", text)
    assert text.count("<script>alert") == 0


def test_the_same_volume_makes_the_same_page(tmp_path):
    first = write_page(tmp_path).read_bytes()
    assert write_page(tmp_path).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["v.html"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"segmentation": IDS[0]}, "expected [D, H, W]"),
        ({"segmentation": IDS[:0]}, "with voxels in it"),
        ({"segmentation": IDS.astype(float)}, "integers"),
        ({"segmentation": np.full((2, 2, 2), -1)}, "background"),
        ({"raw": np.zeros((5, 40, 40), np.uint8)}, "raw has shape (5, 40, 40)"),
        ({"labels": IDS[:, 1:]}, "labels has shape (6, 39, 40)"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_line(tmp_path, wrong, said):
    with pytest.raises(DataError, match=re.escape(said)):
        write_page(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


def test_a_ground_truth_of_background_alone_has_no_errors(tmp_path):
    text = write_page(tmp_path, labels=np.zeros_like(IDS)).read_text()
    assert json.loads(re.search(r'id="told">(.*?)</script>', text)[1])["errors"] is False
    assert object_colours(np.array([0])).shape == (1, 3)


def write_page(folder, **changes):
    write_viewer(folder / "v.html", **{"segmentation": IDS, **OPEN, **changes})
    return folder / "v.html"
