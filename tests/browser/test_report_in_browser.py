"""The page in a real browser: every view and every act, saving and applying."""

from __future__ import annotations

import csv
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from blissaudit.audit.folder import open_run
from blissaudit.audit.report.groups_and_map import group_run
from blissaudit.audit.report.page import page_html
from blissaudit.audit.report.page_data import page_data
from blissaudit.audit.report.thumbnails import PictureShelf
from blissaudit.demo.scenes import render_scene, sample_scene
from PIL import Image

LONG = "very " * 380 + "long"
HOSTILE_CAPTIONS = (
    "</script><script>window.owned = 1</script> clock",
    "<img src=x onerror='window.owned = 1'> a photo of a clock",
    "javascript:window.owned=1 umbrella",
    '"><svg onload="window.owned = 1"> an umbrella',
    "صورة ساعة \u202e a clock \u2067 apple",
    f"a {LONG} caption of an apple",
    '=HYPERLINK("http://example.com") a photo of a boat',
)
HOSTILE_NAMES = (
    "<img src=x onerror=window.owned=1>.png",
    "javascript:window.owned=1.png",
    '"onfocus="window.owned=1" autofocus="".png',
    "=cmd|' C calc'!A0.png",
    "\u202egnp.evil.png",
    "ساعة.png",
    "n" * 230 + ".png",
)


VIEWS = ("overview", "gallery", "labels", "copies", "map")
ACROSS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def report(bliss, collection, index, tmp_path_factory):
    """(page, run folder, what the terminal said): two strays flagged, two wrong labels, copies, a
    black picture, a broken file."""
    root, rng = tmp_path_factory.mktemp("plain"), np.random.default_rng(4)
    images = shutil.copytree(collection, root / "images")
    for name, kind in (("boat/is_house.png", "house"), ("apple/is_boat.png", "boat")):
        render_scene(sample_scene(rng, kind), 96).save(images / name)
    shutil.copy(images / "boat/1.png", images / "boat/copy.png")
    with Image.open(images / "house/2.png") as picture:
        picture.resize((80, 80)).save(images / "house/small.png")
    Image.new("RGB", (96, 96), (3, 3, 3)).save(images / "house/black.png")
    (images / "boat" / "empty.png").write_bytes(b"")
    done = bliss("audit", images, "--index", index, "-o", root / "run", "--flag", 2)
    assert done.code == 0, done.err
    return root / "run" / "report.html", root / "run", done.out


@pytest.fixture(scope="module")
def hostile(bliss, collection, captions, tmp_path_factory):
    """(page, run folder) of a collection whose captions, labels and names all attack."""
    root = tmp_path_factory.mktemp("hostile")
    images = shutil.copytree(collection, root / "images")
    strays = [images / "apple" / "clock.png", images / "boat" / "umbrella.png"]
    for number, name in enumerate(HOSTILE_NAMES):
        shutil.copy(strays[number % 2], images / ("apple", "boat")[number % 2] / name)
    shutil.move(images / "house", images / "<script>window.owned=1<")
    (images / "apple" / "<b onclick=window.owned=1>.png").write_bytes(b"x")
    corpus = root / "corpus.txt"
    corpus.write_text("\n".join([*HOSTILE_CAPTIONS, captions.read_text()]), encoding="utf-8")
    command = ("audit", images, "--corpus", corpus, "--model", "demo", "--k", 300)
    assert bliss(*command, "-o", root / "run").code == 0
    return root / "run" / "report.html", root / "run"


@pytest.fixture(scope="module")
def unflagged(report, tmp_path_factory):
    """(page, data) as of the run without --flag, its first image with a heat map."""
    run, shelf = open_run(report[1]), PictureShelf()
    data = page_data(run, group_run(run), 1000, shelf)
    data["issues"] = {"stray": [0, 0]}
    data["grouped"] = "most unusual images"
    for image in data["images"]:
        image.update(issues=[], flagged=False)
    values = [-1.0, 0.0, 0.5, 2.0, 0.25, 0.25]
    facts = {"rows": 2, "cols": 3, "values": values, "total": 2.0}
    data["images"][0]["map"] = {**facts, "title": "score of apple", "method": "exact"}
    path = tmp_path_factory.mktemp("unflagged") / "report.html"
    path.write_text(page_html(data, shelf.encoded), encoding="utf-8")
    return path, data


def paths(page):
    page.wait_for_selector("#cards:not([aria-busy])", state="attached")
    return page.locator("#cards .path").all_text_contents()


def tally(page):
    return {k: int(page.locator(f".tally .{k} b").inner_text()) for k in ("keep", "remove")}


def to(page, view):
    page.locator(f"#tabs a[href='#{view}']").click()
    page.wait_for_selector(f"main.view-{view} h2")


@pytest.mark.parametrize("size", ["desktop", "phone", "wide"])
def test_every_view_fits_and_the_first_shows_the_worst_of_each_kind(report, open_page, size):
    watched = open_page(report[0], size=size)
    page = watched.page
    issues = pq.read_table(report[1] / "issues.parquet").to_pylist()
    kinds = [issue["kind"] for issue in issues]
    heading = f"{len(issues)} issues of {len({i['row'] for i in issues})} images"
    assert f"\n{heading}:\n" in report[2]
    assert page.locator("main h2").inner_text() == heading
    for kind in set(kinds):
        number = f"{kinds.count(kind):,}"
        assert page.locator(f".tile.{kind} b").inner_text() == number
        assert re.search(rf"^ +{number}  {kind} +worst: ", report[2], re.M)
        assert page.locator(f"#worst-{kind}").inner_text().startswith(number + " ")
        worst = page.locator(f"[aria-labelledby=worst-{kind}] .finding .path").first
        severity = max(i["severity"] for i in issues if i["kind"] == kind)
        names = {i["image"] for i in issues if (i["kind"], i["severity"]) == (kind, severity)}
        assert worst.text_content() in names
    first = page.locator(".finding img").first.bounding_box()
    assert first["y"] + first["height"] < page.viewport_size["height"]
    assert not page.locator(".histogram").first.is_visible()
    page.locator("#settings > summary").click()
    assert page.locator(".threshold").count() == 4
    assert "drawings of" not in page.locator("#settings").inner_text()
    page.locator("#unread > summary").click()
    assert "boat/empty.png" in page.locator("#unread").inner_text()
    for view in VIEWS:
        to(page, view)
        assert page.evaluate(ACROSS) == 0, view
    assert (watched.outside(), watched.trouble) == ([], [])


def test_sorting_filtering_and_searching_show_the_right_images(report, open_page):
    page = open_page(report[0], "gallery").page
    table = pq.read_table(report[1] / "scores.parquet").to_pydict()
    n = range(len(table["row"]))
    order = sorted(n, key=lambda i: table["rank"][i])
    assert paths(page) == [
        table["path"][i] for i in sorted(n, key=lambda i: table["read_first"][i])
    ]
    for name, expected in (
        ("best", [table["path"][i] for i in reversed(order)]),
        ("path", sorted(table["path"])),
        ("worst", [table["path"][i] for i in order]),
    ):
        page.get_by_label("Sort", exact=True).select_option(name)
        assert paths(page) == expected
    page.get_by_label("Class", exact=True).select_option("boat")
    assert paths(page) == [table["path"][i] for i in order if table["label"][i] == "boat"]
    page.get_by_label("Nearest class").select_option("house")
    both = [i for i in order if (table["label"][i], table["nearest_class"][i]) == ("boat", "house")]
    assert paths(page) == [table["path"][i] for i in both] != []
    page.get_by_label("Class", exact=True).select_option("")
    page.get_by_label("Nearest class").select_option("")
    page.get_by_label("Search").fill("UMBRELLA")
    texts = ["\n".join([table["path"][i], *table["captions"][i]]).lower() for i in n]
    with_word = [table["path"][i] for i in order if "umbrella" in texts[i]]
    assert paths(page) == with_word and 0 < len(with_word) < len(order)
    page.get_by_label("Search").fill("no such words anywhere")
    assert page.locator("#found").inner_text() == "No image passes these filters."
    page.get_by_label("Search").fill("")
    issues = pq.read_table(report[1] / "issues.parquet").to_pylist()
    for kind in ("stray", "quality"):
        page.get_by_label("Show", exact=True).select_option(kind)
        assert set(paths(page)) == {i["image"] for i in issues if i["kind"] == kind}


def test_cards_are_made_in_batches_and_a_later_filter_ends_those_of_an_earlier_one(
    report, open_page
):
    page = open_page(report[0], "gallery").page
    every = paths(page)
    redraw = """(values) => {
      const [box, list] = ['field-class', 'cards'].map((id) => document.getElementById(id));
      const height = list.offsetHeight;
      for (const value of values) { box.value = value; box.dispatchEvent(new Event('change')); }
      return [list.children.length, list.offsetHeight >= height];
    }"""
    made, as_high = page.evaluate(redraw, [""])
    assert 0 < made < len(every) and as_high  # so that the page does not scroll up
    assert paths(page) == every
    some = page.evaluate("document.getElementById('field-class').options[1].value")
    page.evaluate(redraw, ["", some, "", some, ""])
    assert paths(page) == every


def test_the_card_gives_the_numbers_of_the_terminal(report, open_page):
    from playwright.sync_api import expect

    page = open_page(report[0], "gallery").page
    page.get_by_label("Sort", exact=True).select_option("worst")
    line = next(line for line in report[2].splitlines() if " apple/clock.png " in line)
    card = page.locator(".card", has=page.get_by_text("clock.png", exact=True))
    card.scroll_into_view_if_needed()  # cards out of sight are not laid out
    expect(card).to_contain_text("Filed under apple, unlike every class; resembles")
    assert card.locator(".pull").first.inner_text() == re.search(r"\((\+[\d.]+)\)", line)[1]
    shown = card.locator(".pulls li bdi")
    assert "photo of" not in " ".join(shown.all_inner_texts())
    assert card.locator(".own p").inner_text() == "nearest apple"


def test_review_by_keyboard_is_saved_and_applied(bliss, report, open_page, tmp_path):
    watched = open_page(report[0], "gallery")
    page = watched.page
    worst = paths(page)
    page.locator("#cards .frame").first.focus()
    page.keyboard.press("r")
    assert watched.status() == f"Remove: {worst[0]}. 1 decided."
    page.keyboard.press("k")
    page.keyboard.press("k")
    page.keyboard.press("u")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("l")
    page.get_by_label("New label").fill("garden / tools")
    page.keyboard.press("Enter")
    assert watched.status() == "A label is a plain name: no slash, no leading dot."
    page.get_by_label("New label").fill("=garden")
    page.keyboard.press("Enter")
    page.keyboard.press("r")
    page.keyboard.press("Escape")
    page.wait_for_selector("#cards .frame:focus")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download decisions").click()
    decisions = tmp_path / "decisions.csv"
    waiting.value.save_as(decisions)
    rows = list(csv.DictReader(decisions.open(encoding="utf-8", newline="")))
    made = {row["path"]: (row["decision"], row["new_label"]) for row in rows}
    assert made == {
        worst[0]: ("remove", ""),
        worst[1]: ("relabel", "'=garden"),
        worst[2]: ("remove", ""),
    }
    assert waiting.value.suggested_filename == "decisions.csv"
    done = bliss("apply", decisions, "--run", report[1], "--copy", tmp_path / "clean")
    assert done.code == 0, done.err
    copied = {p.relative_to(tmp_path / "clean").as_posix() for p in tmp_path.glob("clean/*/*")}
    kept = {*worst} - {worst[0], worst[1], worst[2]}
    assert copied == {*kept, "=garden/" + worst[1].split("/")[1]}
    assert (watched.outside(), watched.trouble) == ([], [])


def test_a_saved_file_is_taken_up_again_and_foreign_rows_are_not(report, open_page, tmp_path):
    page = open_page(report[0], "gallery").page
    page.locator("#cards").get_by_role("button", name="Remove").nth(0).click()
    page.get_by_role("button", name="Keep all").click()
    assert page.locator("#question h2").inner_text() == "Keep 31 images?"
    page.get_by_role("button", name="Cancel").click()
    assert tally(page) == {"keep": 0, "remove": 1}
    page.get_by_role("button", name="Keep all").click()
    page.locator("#question button[type=submit]").click()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download decisions").click()
    saved = tmp_path / "saved.csv"
    waiting.value.save_as(saved)
    lines = saved.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 32
    saved.write_text("\n".join([*lines, '7777,"a,b",x,keep,']) + "\n", encoding="utf-8")
    page.get_by_role("button", name="Undo").click()
    assert tally(page) == {"keep": 0, "remove": 1}
    page.set_input_files("#decisions-file", saved)
    page.locator("#status", has_text="decisions read").wait_for(state="attached")
    assert "31 decisions read, 1 of other images skipped." in page.locator("#status").inner_text()
    assert tally(page) == {"keep": 31, "remove": 0}
    page.get_by_role("button", name="Undo").click()
    assert tally(page) == {"keep": 0, "remove": 1}


def test_cards_are_moved_among_and_selected_with_shift(report, open_page):
    page = open_page(report[0], "gallery").page
    reachable = (
        "[...document.querySelectorAll('#cards button')].filter(b => b.tabIndex === 0).length"
    )
    assert page.evaluate(reachable) == 4
    page.locator("#cards .frame").first.focus()
    here = "[...document.querySelectorAll('#cards button.frame')].indexOf(document.activeElement)"
    tops = "[...document.querySelectorAll('.card')].map((card) => card.offsetTop)"
    columns = page.evaluate(f"(tops => tops.filter((top) => top === tops[0]).length)({tops})")
    steps = (("Right", 1), ("Down", 1 + columns), ("Up", 1), ("Left", 0))
    for key, place in steps:
        page.keyboard.press(f"Arrow{key}")
        assert page.evaluate(here) == place
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert page.locator("#chosen b").inner_text() == "3 selected"
    page.locator(".pick").nth(6).click(modifiers=["Shift"])
    assert page.locator(".card.selected").count() == 7
    page.locator(".pick").nth(1).click()
    assert page.locator("#chosen b").inner_text() == "6 selected"
    page.get_by_role("button", name="Remove the selected").click()
    page.get_by_role("button", name="Relabel the selected").click()
    page.locator("#question-label").fill("pear")
    page.locator("#question button[type=submit]").click()
    assert page.locator(".card .mark.relabel").all_inner_texts() == ["Relabel: pear"] * 6
    page.get_by_role("button", name="Clear the selection").click()
    for expected in ({"keep": 0, "remove": 6}, {"keep": 0, "remove": 0}):
        page.keyboard.press("u")
        assert tally(page) == expected
    page.locator("#cards .frame").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    page.wait_for_selector("#cards .card:nth-child(2) .frame:focus")


def test_an_image_has_an_address_neighbours_and_its_original(report, open_page):
    watched = open_page(report[0], "image=3")
    page = watched.page
    table = pq.read_table(report[1] / "scores.parquet").to_pydict()
    title = table["path"][table["row"].index(3)]
    assert page.locator("#review-title bdi").inner_text() == title
    page.locator("#review .neighbours .frame").first.click()
    there = page.locator("#review-title bdi").inner_text()
    assert there != title
    row = table["row"][table["path"].index(there)]
    assert page.evaluate("location.hash") == f"#image={row}"
    address = page.locator("#review a[target=_blank]").get_attribute("href")
    assert address.startswith("./") and address.endswith(there)
    page.locator("#full-size").click()
    size = "document.querySelector('#zoom img').naturalWidth"
    page.locator("#zoom img").evaluate("image => image.decode()")
    assert page.evaluate(size) > 0
    wide = "document.querySelector('#zoom img').getBoundingClientRect().width"
    page.keyboard.press("1")
    assert page.evaluate(wide) == page.evaluate(size)
    page.keyboard.press("+")
    assert page.evaluate(wide) == pytest.approx(1.25 * page.evaluate(size), abs=1)
    page.keyboard.press("0")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.wait_for_url(re.compile("#overview$"))
    assert (watched.outside(), watched.trouble) == ([], [])


def test_wrong_labels_are_sorted_by_certainty_beside_both_classes(report, open_page):
    watched = open_page(report[0], "labels")
    page = watched.page
    table = pq.read_table(report[1] / "scores.parquet").to_pylist()
    wrong = sorted((r for r in table if r["is_label_issue"]), key=lambda r: -r["margin"])
    assert page.locator(".label-row .path").all_text_contents() == [r["path"] for r in wrong]
    first = page.locator(".label-row").first
    given, better = wrong[0]["label"], wrong[0]["predicted_label"]
    assert first.locator(".sentence").inner_text() == f"Filed under {given}; looks like {better}"
    assert first.locator(".class-pictures").all_inner_texts() == [
        f"filed under {given}", f"looks like {better}"
    ]  # fmt: skip
    assert first.locator("img").first.bounding_box()["width"] == 120
    first.get_by_role("button", name=f"File under {better}").click()
    assert first.locator(".mark.relabel").inner_text() == f"Relabel: {better}"
    page.keyboard.press("u")
    assert first.locator(".mark.relabel").count() == 0
    page.get_by_label("Filed under → looks like").select_option(index=1)
    page.get_by_role("button", name="Relabel all").click()
    assert "as " in watched.status() and page.locator(".mark.relabel").count() >= 1


def test_copies_are_side_by_side_and_one_is_kept(report, open_page):
    page = open_page(report[0], "copies").page
    copies = pq.read_table(report[1] / "copies.parquet").to_pylist()
    groups = {c["group"] for c in copies if c["kind"] != "look-alike"}
    assert page.locator("main > .copy-groups > li").count() == len(groups) == 2
    kept = page.locator("main > .copy-groups > li li:first-child .copy-how b").all_inner_texts()
    assert kept == ["Suggested to keep"] * 2
    page.get_by_role("button", name="Keep only boat/copy.png").click()
    assert tally(page) == {"keep": 1, "remove": 1}
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Remove all but the suggested").click()
    removed = page.locator("li.remove .path").all_inner_texts()
    assert set(removed) == {c["image"] for c in copies if c["group"] in groups and not c["keep"]}


def test_the_map_opens_points_and_filters_the_gallery(report, open_page):
    watched = open_page(report[0], "map")
    page = watched.page
    for colouring in ("class", "issue", "decision", "rank"):
        page.get_by_label("Colour").select_option(colouring)
    assert page.locator("#map-legend").inner_text().split()[:2] == ["most", "unusual"]
    page.locator("#map-area").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    named = watched.status()
    page.keyboard.press("Enter")
    assert page.locator("#review-title bdi").inner_text() in named
    page.keyboard.press("Escape")
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 11, box["y"] + 11)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] - 1)
    page.mouse.up()
    page.wait_for_selector("main.view-gallery")
    assert page.locator("#found").inner_text() == "31 images"
    page.get_by_role("button", name="Show the others again").click()
    assert (watched.outside(), watched.trouble) == ([], [])


def test_what_was_not_flagged_is_most_unusual_and_a_heat_map_is_drawn(unflagged, open_page):
    watched = open_page(unflagged[0], "overview")
    page = watched.page
    assert page.locator("#worst-unusual").inner_text() == "Most unusual"
    assert page.get_by_role("button", name="Remove all").count() == 0
    shown = page.locator("main").inner_text()
    assert re.findall("[Ss]trays?", shown) == ["strays", "stray"], "0 strays; nothing was flagged"
    page.locator(".finding button").first.click()
    page.get_by_role("button", name="Heat map").click()
    legend = page.locator(".legend").inner_text()
    assert "score of apple" in legend and "All cells add up to +2.00." in legend
    size, *pixels = page.evaluate(
        "const heat = document.querySelector('canvas.heat');"
        "[heat.width, ...heat.getContext('2d').getImageData(0, 0, heat.width, heat.height).data]"
    )
    colours = np.array(pixels).reshape(-1, size, 4)
    red, _, blue, alpha = colours[-4, 4]
    assert red > blue and alpha == pytest.approx(191, abs=2), "the largest of the cells"
    assert colours[4, 4, 2] > colours[4, 4, 0] and colours[4, size // 2, 3] == 0
    page.get_by_role("button", name="Heat map").click()
    assert page.locator("canvas.heat").count() == 0
    assert watched.trouble == []


def test_nothing_hostile_runs_or_leaves_the_page(bliss, hostile, open_page, tmp_path):
    watched = open_page(hostile[0], "overview", "phone")
    page = watched.page
    views = page.locator("#tabs a").evaluate_all("(links) => links.map((a) => a.hash.slice(1))")
    for view in [*views, "gallery"]:
        to(page, view)
        assert page.evaluate(ACROSS) == 0
    shown = "\n".join(paths(page))
    for name in HOSTILE_NAMES:
        assert name.replace("\u202e", "\\u202e") in shown
    page.locator("#cards .frame").first.click()
    seen = ""
    for _ in range(page.locator(".card").count()):
        seen += page.locator("#review").inner_text()
        page.keyboard.press("ArrowRight")
    for caption in HOSTILE_CAPTIONS:
        assert " ".join(caption.split())[:60] in " ".join(seen.split())
    assert page.evaluate("typeof window.owned") == "undefined"
    inserted = (
        "document.querySelectorAll('main script, main img[src=x], dialog svg, main a[href^=j]')"
    )
    assert page.evaluate(f"{inserted}.length") == 0
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Remove all").click()
    page.locator("#question button[type=submit]").click()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download decisions").click()
    waiting.value.save_as(tmp_path / "decisions.csv")
    with open(tmp_path / "decisions.csv", encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    done = bliss("apply", tmp_path / "decisions.csv", "--run", hostile[1])
    assert done.code == 0, done.err
    assert "33 to remove, 0 to relabel; 0 images stay" in done.out
    assert (watched.outside(), watched.trouble) == ([], [])


@pytest.mark.parametrize("which, size, scheme", [("report", "desktop", "light"),
                                                 ("hostile", "phone", "dark")])  # fmt: skip
def test_axe_finds_nothing_serious(request, serious, open_page, which, size, scheme):
    page = open_page(request.getfixturevalue(which)[0], "overview", size, scheme).page
    for detail in page.locator("main details > summary").all():
        detail.click()
    views = page.locator("#tabs a").evaluate_all("(links) => links.map((a) => a.hash.slice(1))")
    for view in views if which == "report" else ("overview", "gallery"):
        to(page, view)
        few = "[...document.querySelectorAll('.card, .label-row, .finding')].slice(6)"
        page.evaluate(f"{few}.forEach((each) => each.remove())")  # they are alike, and axe is slow
        assert serious(page) == [], view
    to(page, "gallery")
    page.locator(".pick").first.click()
    page.locator("#cards .frame").first.click()
    page.locator("#numbers summary").click()
    page.keyboard.press("r")
    assert serious(page) == []
    page.locator("#full-size").click()
    assert serious(page) == []
