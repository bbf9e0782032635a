"""The page as text: what may run in it is known by its hash, and nothing untrusted can."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from blissaudit.audit.report.page import page_html, page_script
from hypothesis import given
from hypothesis import strategies as st

ATTACKS = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "&lt;b&gt;",
    "\u2028\u2029\x00\ud800",
    "{{script}} {{data}} \\1 \\g<0>",
    '"><img src=x onerror=alert(1)>',
)


class Elements(HTMLParser):
    """Every element with its attributes and text."""

    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.open = [tag, dict(attributes), ""]
        self.found.append(self.open)

    def handle_data(self, text):
        if self.open is not None:
            self.open[2] += text

    def handle_endtag(self, tag):
        self.open = None

    def all(self, tag):
        return [(attributes, text) for name, attributes, text in self.found if name == tag]


def page_of(**changes):
    return page_html({"title": "photos", "images": [], **changes}, ["AAAA", "BBBB"])


def test_only_the_pages_own_script_and_style_may_run():
    elements = Elements(page_of())
    metas = {m.get("http-equiv"): m.get("content") for m, _ in elements.all("meta")}
    policy = dict(part.split(" ", 1) for part in metas["Content-Security-Policy"].split("; "))

    def hashed(text):
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    running = [text for attributes, text in elements.all("script") if "type" not in attributes]
    assert [policy["script-src"]] == [hashed(text) for text in running]
    assert [policy["style-src"]] == [hashed(text) for _, text in elements.all("style")]
    assert policy["default-src"] == policy["connect-src"] == policy["base-uri"] == "'none'"
    assert policy["form-action"] == "'none'"
    assert policy["img-src"] == "data: file:", "an original is shown when a picture is enlarged"
    assert policy["require-trusted-types-for"] == "'script'"


def test_the_page_names_no_other_place_and_holds_no_handler_or_style_attribute():
    page = page_of()
    addresses = set(re.findall(r"[a-z]+://[^\s'\"<>)]*", page))
    assert addresses == {"http://www.w3.org/2000/svg"}
    for tag, attributes, _ in Elements(page).found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert not {"src", "srcset", "action", "formaction"} & set(attributes), tag
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
    for attributes, _ in Elements(page).all("a"):
        assert attributes["href"].startswith("#")


def test_the_script_never_parses_text_as_html_or_code():
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bFunction\(|DOMParser"
        r"|createContextualFragment|srcdoc|\bfetch\b|XMLHttpRequest|WebSocket|sendBeacon|import\("
        r"|localStorage|sessionStorage|cookie|setTimeout\(['\"`]"
    )
    assert re.findall(forbidden, page_script()) == []
    assert "</script" not in page_script().lower()
    assert "<!--" not in page_script()


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_text_comes_back_as_it_was_and_opens_no_element(attack):
    calm, page = Elements(page_of()), page_of(captions=[attack], title=attack)
    elements = Elements(page.encode("utf-8", "replace").decode())
    assert [found[0] for found in elements.found] == [found[0] for found in calm.found]
    (data,) = [text for a, text in elements.all("script") if a.get("id") == "data"]
    assert json.loads(data)["captions"] == [attack]
    assert not set("<>&") & set(data)
    assert data.isascii()


@given(st.text())
def test_any_text_comes_back_as_it_was(text):
    (data,) = [
        found
        for attributes, found in Elements(page_of(captions=[text])).all("script")
        if attributes.get("id") == "data"
    ]
    assert json.loads(data)["captions"] == [text]


def test_pictures_lie_in_the_page_by_number_in_elements_that_do_not_run():
    elements = Elements(page_of())
    pictures = {
        attributes["id"]: (attributes["type"], text)
        for attributes, text in elements.all("script")
        if attributes.get("id", "").startswith("picture-")
    }
    assert pictures == {"picture-0": ("text/plain", "AAAA"), "picture-1": ("text/plain", "BBBB")}
