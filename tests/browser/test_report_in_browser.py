"""The page in a real browser: sorting, filtering, reviewing by keyboard, saving and applying."""

from __future__ import annotations

import copy
import csv
import shutil
import time

import pyarrow.parquet as pq
import pytest
from blissaudit.audit.folder import open_run
from blissaudit.audit.report.grouping import group_run
from blissaudit.audit.report.page import page_html
from blissaudit.audit.report.page_data import page_data
from blissaudit.audit.report.thumbnails import PictureShelf

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


@pytest.fixture(scope="module")
def report(bliss, collection, index, tmp_path_factory):
    """(page, run folder, collection, index) of an audit with two broken files."""
    root = tmp_path_factory.mktemp("plain")
    images = shutil.copytree(collection, root / "images")
    (images / "boat" / "empty.png").write_bytes(b"")
    assert bliss("audit", images, "--index", index, "-o", root / "run").code == 0
    return root / "run" / "report.html", root / "run", images, index


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
def labelled(report, tmp_path_factory):
    """A page as of a run that asked about labels and flagged: three issues of two pairs."""
    run, shelf = open_run(report[1]), PictureShelf()
    data = page_data(run, group_run(run), 1000, shelf)
    house = data["classes"].index("house")
    chosen = [i for i in data["images"] if data["classes"][i["label"]] != "house"][:3]
    for image in data["images"]:
        image.update(is_label_issue=image in chosen, predicted_label=house, margin=-1.0, q=0.5)
        image.update(label_quality=0.9, flagged=image["rank"] < 4)
    for place, image in enumerate(chosen):
        image.update(label_quality=0.3 - place / 10, margin=1.0)
    data["spread"]["threshold"] = 1.0
    path = tmp_path_factory.mktemp("labelled") / "report.html"
    path.write_text(page_html(data, shelf.encoded), encoding="utf-8")
    return path, chosen, data["classes"]


@pytest.fixture(scope="module")
def large(report, tmp_path_factory):
    """A page of 5,000 images: those of the small run again and again."""
    run, shelf = open_run(report[1]), PictureShelf()
    data = page_data(run, group_run(run), 1000, shelf)
    first = data["images"]
    data["images"] = [
        {**copy.deepcopy(first[at % len(first)]), "row": at, "rank": at + 1} for at in range(5000)
    ]
    path = tmp_path_factory.mktemp("large") / "report.html"
    path.write_text(page_html(data, shelf.encoded), encoding="utf-8")
    return path


def paths(page):
    return page.locator("#cards .path").all_text_contents()


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_every_view_opens_without_requests_errors_or_overflow(report, open_page, size):
    watched = open_page(report[0], size=size)
    for view in ("overview", "gallery", "groups", "failures"):
        watched.page.locator(f"#tabs a[href='#{view}']").click()
        watched.page.wait_for_selector(f"main.view-{view} h2")
        across = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert watched.page.evaluate(across) == 0
    assert "boat/empty.png" in watched.page.locator("table").inner_text()
    assert (watched.outside(), watched.trouble) == ([], [])


def test_sorting_filtering_and_searching_show_the_right_images(report, open_page):
    page = open_page(report[0], "gallery").page
    table = pq.read_table(report[1] / "scores.parquet").to_pydict()
    order = sorted(range(len(table["row"])), key=lambda i: table["rank"][i])
    assert paths(page) == [table["path"][i] for i in order]
    page.get_by_label("Sort", exact=True).select_option("best")
    assert paths(page) == [table["path"][i] for i in reversed(order)]
    page.get_by_label("Sort", exact=True).select_option("path")
    assert paths(page) == sorted(table["path"])
    page.get_by_label("Sort", exact=True).select_option("worst")
    page.get_by_label("Class", exact=True).select_option("boat")
    assert paths(page) == [table["path"][i] for i in order if table["label"][i] == "boat"]
    page.get_by_label("Nearest class").select_option("apple")
    both = [i for i in order if (table["label"][i], table["nearest_class"][i]) == ("boat", "apple")]
    assert paths(page) == [table["path"][i] for i in both]
    page.get_by_label("Class", exact=True).select_option("")
    page.get_by_label("Nearest class").select_option("")
    page.get_by_label("Search").fill("UMBRELLA")
    with_word = [
        table["path"][i]
        for i in order
        if "umbrella" in "\n".join([table["path"][i], *table["captions"][i]]).lower()
    ]
    assert paths(page) == with_word
    assert 0 < len(with_word) < len(order)
    page.get_by_label("Search").fill("no such words anywhere")
    assert page.locator("#found").inner_text() == "No image passes these filters."
    page.get_by_label("Search").fill("")
    page.get_by_label("Group").select_option("0")
    first = group_run(open_run(report[1])).groups[0]
    assert sorted(paths(page)) == sorted(table["path"][table["row"].index(r)] for r in first.rows)


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
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download decisions").click()
    saved = tmp_path / "saved.csv"
    waiting.value.save_as(saved)
    lines = saved.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 27
    saved.write_text("\n".join([*lines, '7777,"a,b",x,keep,']) + "\n", encoding="utf-8")
    watched = open_page(report[0], "gallery")
    watched.page.set_input_files("#decisions-file", saved)
    watched.page.locator("#status", has_text="decisions read").wait_for(state="attached")
    assert watched.status() == "26 decisions read, 1 of other images skipped."
    assert watched.page.locator(".tally .keep b").inner_text() == "26"
    watched.page.get_by_role("button", name="Undo").click()
    assert watched.page.locator(".tally .keep b").inner_text() == "0"


def test_one_card_is_in_the_tab_order_and_arrows_move_it(report, open_page):
    page = open_page(report[0], "gallery").page
    reachable = (
        "[...document.querySelectorAll('#cards button')].filter(b => b.tabIndex === 0).length"
    )
    assert page.evaluate(reachable) == 4
    page.locator("#cards .frame").first.focus()
    here = "[...document.querySelectorAll('#cards .frame')].indexOf(document.activeElement)"
    tops = "[...document.querySelectorAll('.card')].map((card) => card.offsetTop)"
    across = f"(tops => tops.filter((top) => top === tops[0]).length)({tops})"
    columns = page.evaluate(across)
    for key, place in (
        ("ArrowRight", 1),
        ("ArrowDown", 1 + columns),
        ("ArrowUp", 1),
        ("ArrowLeft", 0),
    ):
        page.keyboard.press(key)
        assert page.evaluate(here) == place
    page.keyboard.press("Enter")
    assert page.locator("#review").is_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    page.wait_for_selector("#cards .card:nth-child(2) .frame:focus")


def test_the_terms_are_called_the_scores_only_where_they_are(report, open_page, bliss, tmp_path):
    page = open_page(report[0], "gallery").page
    page.locator("#cards .frame").first.click()
    assert "What the score is made of" in page.locator("#review").inner_text()
    knn = ("--score", "mcm", "--index", report[3], "-o", tmp_path / "out")
    assert bliss("audit", report[2], *knn).code == 0
    page = open_page(tmp_path / "out" / "report.html", "gallery").page
    page.locator("#cards .frame").first.click()
    assert "What BLISS makes of it (the ranking is another)" in page.locator("#review").inner_text()


def test_groups_lead_to_their_images(report, open_page):
    watched = open_page(report[0], "groups")
    page = watched.page
    sizes = [len(group.rows) for group in group_run(open_run(report[1])).groups]
    assert page.locator(".group").count() == len(sizes)
    page.get_by_role("button", name="Remove all of group 1").click()
    assert watched.status().endswith(f"{sizes[0]} decided.")
    page.get_by_role("button", name="Show group 1 in the gallery").click()
    page.wait_for_selector("main.view-gallery")
    assert page.locator("#cards .mark.remove").count() == sizes[0] == page.locator(".card").count()


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_label_issues_are_paired_and_relabelled_at_once(labelled, open_page, serious, size):
    path, chosen, classes = labelled
    watched = open_page(path, "labels", size)
    page = watched.page
    assert serious(page) == []
    pairs = {classes[image["label"]] for image in chosen}
    assert page.locator(".group").count() == len(pairs)
    for label in pairs:
        title = f"Labelled {label}, looks like house"
        assert page.get_by_role("heading", name=title).count() == 1
    page.get_by_role("button", name="Relabel all as house").first.click()
    assert "as house" in watched.status()
    page.locator("#tabs a[href='#gallery']").click()
    if size == "phone":
        page.locator(".filters summary").click()
    page.get_by_label("Show", exact=True).select_option("issues")
    assert sorted(paths(page)) == sorted(image["path"] for image in chosen)
    page.get_by_label("Sort", exact=True).select_option("quality")
    assert paths(page) == [image["path"] for image in reversed(chosen)]
    page.get_by_label("Show", exact=True).select_option("flagged")
    assert page.locator(".card").count() == 3
    page.locator("#tabs a[href='#overview']").click()
    page.wait_for_selector("main.view-overview")
    assert page.locator(".threshold").count() == 4
    assert (watched.outside(), watched.trouble) == ([], [])


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_nothing_hostile_runs_or_leaves_the_page(hostile, open_page, size):
    watched = open_page(hostile[0], "overview", size)
    page = watched.page
    for view in ("overview", "gallery", "groups", "failures"):
        page.goto(page.url.split("#")[0] + f"#{view}")
        page.wait_for_selector(f"main.view-{view}")
    page.goto(page.url.split("#")[0] + "#gallery")
    page.wait_for_selector("main.view-gallery")
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
    across = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(across) == 0
    assert page.evaluate("typeof window.owned") == "undefined"
    inserted = (
        "document.querySelectorAll('main script, main img[src=x], dialog svg, main a[href^=j]')"
    )
    assert page.evaluate(f"{inserted}.length") == 0
    assert (watched.outside(), watched.trouble) == ([], [])


def test_hostile_names_survive_the_decisions_file(bliss, hostile, open_page, tmp_path):
    watched = open_page(hostile[0], "gallery")
    watched.page.get_by_role("button", name="Remove all").click()
    with watched.page.expect_download() as waiting:
        watched.page.get_by_role("button", name="Download decisions").click()
    waiting.value.save_as(tmp_path / "decisions.csv")
    with open(tmp_path / "decisions.csv", encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    done = bliss("apply", tmp_path / "decisions.csv", "--run", hostile[1])
    assert done.code == 0, done.err
    assert "33 to remove, 0 to relabel; 0 images stay" in done.out


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
@pytest.mark.parametrize("which", ["report", "hostile"])
def test_axe_finds_nothing_serious(request, serious, open_page, which, size, scheme):
    page = open_page(request.getfixturevalue(which)[0], "overview", size, scheme).page
    for view in ("overview", "gallery", "groups", "failures"):
        page.goto(page.url.split("#")[0] + f"#{view}")
        page.wait_for_selector(f"main.view-{view}")
        assert serious(page) == [], view
    page.goto(page.url.split("#")[0] + "#gallery")
    page.wait_for_selector("main.view-gallery")
    page.locator("#cards .frame").first.click()
    assert serious(page) == []
    page.keyboard.press("r")
    page.keyboard.press("Escape")
    assert serious(page) == []


def test_five_thousand_images_stay_smooth(large, open_page):
    watched = open_page(large, "gallery")
    page = watched.page
    assert page.locator(".card").count() == 60
    assert page.locator("#found").inner_text() == "5,000 images, page 1 of 84"
    start = time.monotonic()
    page.get_by_role("button", name="Next").click()
    page.get_by_label("Search").fill("photo")
    page.get_by_role("button", name="Last").click()
    page.locator("#cards .frame").first.focus()
    for _ in range(10):
        page.keyboard.press("k")
    assert watched.status().endswith("10 decided.")
    assert time.monotonic() - start < 10
    assert (watched.outside(), watched.trouble) == ([], [])
