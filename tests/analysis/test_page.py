"""The page in a real Chromium: every control, what it shows against the plain definition, and no
error in the console."""

import csv
import json
import xml.etree.ElementTree

import pytest

import browser
from browser import Page, write_page
from frontiers import curves_of, expected
from lines import story

pytestmark = browser.needed
TRACE = {"otherData": {"key": "0" * 15 + "a"}, "traceEvents": [
    {"name": name, "ph": "X", "ts": ts, "dur": 40, "pid": rank, "tid": lane,
     "args": {"layer": layer, "chunk": chunk}}
    for layer in (0, 1) for rank in (0, 1) for chunk in (0, 1)
    for name, ts, lane in (("attention", 200 * layer + 50 * chunk, 0),
                           ("exchange", 200 * layer + 50 * chunk + 45, 1))]}


@pytest.fixture(scope="module")
def story_page(driver, tmp_path_factory):
    folder = tmp_path_factory.mktemp("a") / "story"
    folder.mkdir()
    (folder / "trace.json").write_text(json.dumps(TRACE))
    return Page(driver, write_page(folder, story()), driver.downloads)


@pytest.fixture
def page(story_page):
    story_page.open()
    yield story_page
    story_page.quiet()


def test_frontier_without_filters_is_the_programs(page):
    rows = page.rows()
    assert len(rows) > 30
    assert page.standing() == {row["i"] for row in rows if row["frontier"]} == expected(rows)
    assert "as helix-bench frontier has them" in page.find("#how").text
    assert "Click a point of the frontier" in page.find("#pins").text
    assert page.find("h1").text == "story"


def test_filters_narrow_and_the_frontier_follows(page):
    everything = page.rows()
    page.choose("context", "65536")
    assert {row["context"] for row in page.rows()} == {"65536"}
    page.click('#ranks input[value="64"]')  # off
    assert {row["ranks"] for row in page.rows()} == {8}
    page.click('#hop input[value="on"]')
    rows = page.rows()
    assert {(row["ranks"], row["hop"]) for row in rows} == {(8, True)} and len(rows) < len(everything)
    assert page.standing() == expected(rows)
    assert "found anew" in page.find("#how").text
    page.click('#hop input[value="off"]')
    assert not any(row["hop"] for row in page.rows()) and page.standing() == expected(page.rows())
    page.click("#layers input")  # one kind of line of two
    layers = {row["layer"] for row in page.rows()}
    assert len(layers) == 1 and len(page.all("#layers input")) == 2
    page.click("#reset")
    assert page.rows() == everything or len(page.rows()) == len(everything)


def test_axes_scales_and_relative_values(page):
    seen = {page.picture()}

    def changed():
        picture = page.picture()
        assert picture not in seen
        seen.add(picture)

    for name, value in (("xscale", "linear"), ("yscale", "linear"), ("relative", "yes"), ("x", "user_p90")):
        page.choose(name, value)
        changed()
    assert page.standing() == expected(page.rows(), lambda row: row["p90"])
    page.choose("relative", "no")
    page.choose("x", "ttl")
    changed()
    assert page.standing() == {row["i"] for row in page.rows() if row["frontier"]}
    for name in ("all", "labels"):
        page.click(f"#{name}")
        changed()
    page.choose("relative", "yes")
    # On both axes the Baseline's best is 1.
    place = page.js("""const plot = page.currentPlot();
        return page.currentView().hulls.map((hull) => [Math.min(...hull.rows.map(plot.place.x)),
            Math.max(...hull.rows.map(plot.place.y))])""")
    assert place and all(abs(x - 1) < 1e-9 and abs(y - 1) < 1e-9 for x, y in place)


def test_the_legend_hides_and_highlights(page):
    page.choose("context", "4096")
    before = page.picture()
    buttons = page.all("#legend button")
    assert [button.text for button in buttons] == sorted(("helix", "tp", "dcp", "medha", "dp_ep"))
    page.js("""document.querySelector('#legend button').dispatchEvent(new PointerEvent('pointerenter'))""")
    assert page.picture() != before
    page.js("""document.querySelector('#legend button').dispatchEvent(new PointerEvent('pointerleave'))""")
    assert page.picture() == before
    page.click("#legend button")
    assert page.state("hide") == ["dcp"]
    assert page.find("#legend button").get_attribute("aria-pressed") == "false"
    assert "dcp" not in page.find("#table").text and page.picture() != before
    for word in ("dashed: simulated", "hollow: not verified", "crossed: wrong", "shaded: what the Baseline",
                 "bars: slowest to fastest launch", "pale: dominated"):
        assert word in page.find("#legend").text


def test_hover_shows_and_click_pins_a_point(page):
    i, x, y = page.js("""const plot = page.currentPlot();
        const i = page.currentView().curves.find((c) => c.strategy === 'helix' && !c.dashed).frontier[0];
        document.getElementById('plot').scrollIntoView({block: 'center', behavior: 'instant'});
        const box = document.getElementById('plot').getBoundingClientRect();
        return [i, box.left + plot.px(i), box.top + plot.py(i)]""")
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        page.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {
            "type": kind, "x": x, "y": y, "button": "none" if kind == "mouseMoved" else "left",
            "clickCount": 0 if kind == "mouseMoved" else 1})
    tip = page.find("#tip").text
    for word in ("helix", "KVP4×TPA2→TPF8", "batch", "TTL", "p95", "of floor", "50", "exchange exposed",
                 "memory a GPU", "3.00 GB", "3 launches", "exact: 1.0e-6", "key", "Pinned below"):
        assert word in tip, (word, tip)
    assert page.state("pins") == [page.js("return page.data.rows.id[arguments[0]]", i)]
    card = page.find("#pins article").text
    for word in ("Tasks against their floors", "attention", "floor", "HOP-B in 4 chunks", "% less",
                 "Run it again", "--executor cuda", "run --from"):
        assert word in card, (word, card)
    assert len(page.all("#pins .bar u")) == 2 and len(page.all("#pins svg.lanes")) == 2
    page.click("#pins .copy")
    copied = browser.wait(page.driver, "return document.querySelector('#pins .copy').dataset.copied")
    assert copied == page.find("#pins .command code").text
    page.click("#pins details summary")
    assert "weights, KV, buffers" in page.find("#pins .facts").text
    page.click("#unpin")
    assert page.state("pins") == [] and "Click a point" in page.find("#pins").text


def test_the_plot_is_reachable_by_keys(page):
    canvas = page.find("#plot")
    page.js("document.getElementById('plot').focus()")
    canvas.send_keys("\ue014")  # right
    first = page.find("#spoken").get_attribute("textContent")
    canvas.send_keys("\ue014")
    second = page.find("#spoken").get_attribute("textContent")
    assert "tokens/s/user" in first and first != second
    canvas.send_keys("\ue013")  # up: another curve
    assert page.find("#spoken").get_attribute("textContent").split()[0] != second.split()[0]
    canvas.send_keys("\ue007")  # enter
    assert len(page.state("pins")) == 1 and page.find("#tip").is_displayed()
    canvas.send_keys("\ue00c")  # escape
    assert not page.find("#tip").is_displayed()
    # Everything that can be clicked can be reached.
    assert not page.js("""return [...document.querySelectorAll('button, select, input, a, summary')]
        .filter((e) => e.tabIndex < 0).length""")


def test_the_view_is_kept_in_the_address(page):
    page.choose("context", "65536")
    page.choose("xscale", "linear")
    page.click('#hop input[value="on"]')
    page.click("#table tbody button")
    page.type("slo", "12.5")
    fragment = page.js("return location.hash")
    picture, table = page.picture(), page.find("#table").text
    page.open(fragment)
    assert page.picture() == picture and page.find("#table").text == table
    assert page.find("#slo").get_attribute("value") == "12.5"
    assert len(page.all("#pins article")) == 1
    page.js("location.hash = '#context=4096'")
    browser.wait(page.driver, "return window.helixBench.state.context === '4096'")
    page.click("#copy-view")
    assert browser.wait(page.driver, "return document.getElementById('copy-view').dataset.copied") == \
        page.js("return location.href")


@pytest.mark.parametrize("fragment", [
    "#model=none&context=<img src=x>&x=constructor&sort=__proto__&pins=a&page=-7&slo=x&ranks=3",
    "#%FF%00&hop=on&hide=helix&hide=tp", "#layers=none&metric=toString&theme=hasOwnProperty&find=%5B"])
def test_an_address_of_anything_shows_something(story_page, fragment):
    story_page.open(fragment)
    assert story_page.find("#frontier").is_displayed()
    assert story_page.js("return document.querySelectorAll('img').length") == 0
    story_page.quiet()


def test_a_promise_names_the_best_layout_and_its_gain(page):
    page.type("slo", "100")
    rows = [row for row in page.rows() if row["x"] >= 100 and row["frontier"] and
            row["layer"] == page.rows()[0]["layer"]]
    best = {}
    for row in rows:
        best[row["strategy"]] = max(best.get(row["strategy"], 0), row["y"])
    base = max(best[strategy] for strategy in ("tp", "dp_ep", "medha") if strategy in best)
    table = {cells[0].strip(): cells for cells in page.js("""
        return [...document.querySelectorAll('#slo-table tbody tr')].map((tr) => [...tr.cells].map((td) => td.innerText))""")}
    assert set(table) == {"helix", "tp", "dcp", "medha", "dp_ep", "Baseline"}
    for strategy, value in best.items():
        ratio = float(table[strategy][6].rstrip("×"))
        assert ratio == pytest.approx(value / base, rel=0.01)
    page.type("slo", "1e9")
    assert "does not reach it" in page.find("#slo-table").text


def test_the_map_says_who_wins_and_by_how_much(page):
    for metric, value in (("user", lambda row: row["x"]), ("chip", lambda row: row["y"])):
        page.choose("metric", metric)
        cells = page.js("""const contexts = [...document.querySelectorAll('#map thead th')].slice(1).map((th) => th.innerText);
            return [...document.querySelectorAll('#map tbody tr')].flatMap((tr) => [...tr.cells].slice(1)
                .map((td, n) => [tr.cells[0].innerText, contexts[n], td.innerText]))""")
        assert len(cells) == 4 * 3
        for batch, context, text in cells:
            page.choose("context", context)
            best = {}
            for row in page.rows():
                if row["batch"] == int(batch) and row["proof"] in ("verified", "simulated") and \
                        row["layer"] == page.js("return page.data.panels.find((p) => p.context === arguments[0]).layer", context):
                    best[row["strategy"]] = max(best.get(row["strategy"], 0), value(row))
            (second, _), (first, winner) = sorted((v, s) for s, v in best.items())[-2:]
            assert winner in text and f"{first / second:.2f}×" in text, (batch, context, text, best)


def test_the_table_sorts_finds_and_turns_pages(page):
    rows = page.rows()
    page.click('[data-sort="ttl"]')

    def column(n):
        return page.js("""return [...document.querySelectorAll('#table tbody tr')].map((tr) => tr.cells[arguments[0]].innerText.trim())""", n)
    times = [float(text.replace(",", "")) for text in column(6)]
    assert times == sorted(times, reverse=True) and len(times) == min(100, len(rows))
    page.click('[data-sort="ttl"]')
    assert [float(text.replace(",", "")) for text in column(6)] == sorted(times)
    page.click('[data-sort="strategy"]')
    assert column(0) == sorted(column(0))
    page.type("find", "helix b16")
    assert set(column(0)) == {"helix"} and set(column(4)) == {"16"}
    page.type("find", "no such thing")
    assert column(0) == []
    page.type("find", "")
    assert page.find("#back").get_attribute("disabled")


def test_what_is_taken_away(page):
    page.choose("context", "65536")
    rows = page.rows()
    table = list(csv.DictReader(page.downloaded("#csv", ".csv").decode().splitlines()))
    assert [float(row["x"]) for row in table] == [row["x"] for row in rows]
    assert {"tasks_us.attention", "floor_us.attention", "kvp", "environment"} <= set(table[0])
    assert page.downloaded("#png", ".png").startswith(b"\x89PNG")
    svg = page.downloaded("#svg", ".svg").decode()
    assert "llama-405b, context 65536" in svg and svg.count("stroke-dasharray=\"7 4\"") == 5
    assert xml.etree.ElementTree.fromstring(svg).tag.endswith("svg")


def test_themes(page):
    def ground():
        return page.js("return getComputedStyle(document.body).backgroundColor")
    light = ground()
    page.click("#theme")
    page.click("#theme")
    dark = ground()
    assert page.find("#theme").text == "Theme: dark" and dark != light
    page.open(dark=True)
    assert ground() == dark
    page.open("#theme=light", dark=True)
    assert ground() == light


def test_a_trace_shows_its_lanes(page):
    page.open("#pins=" + TRACE["otherData"]["key"])
    card = page.find("#pins article")
    assert "Lanes of one step (trace.json)" in card.text
    titles = page.js("return [...document.querySelectorAll('#pins svg.lanes text.axis')].map((t) => t.textContent)")
    assert titles[:4] == ["rank 0 compute", "rank 0 exchange", "rank 1 compute", "rank 1 exchange"]
    assert len(page.all("#pins svg.lanes rect")) == 8
    page.js("""const select = document.querySelector('#pins select'); select.value = '-1';
        select.dispatchEvent(new Event('change'))""")
    assert len(page.all("#pins svg.lanes rect")) == 16


def test_where_the_numbers_come_from(page):
    text = page.find("#runs").text
    for word in ("Z80, commit 0123456789ab", "3 skipped: needs 16 ranks", "1 failed:", "make report"):
        assert word in text, (word, text)
    page.click("#runs summary")
    assert "helix-bench run" in page.find("#runs details").text


def test_nothing_to_draw_is_said(page):
    page.js("page.update({ranks: ['64'], layers: [page.data.panels.find((p) => p.executor === 'cuda').layer]})")
    assert "No point is left by these filters" in page.find("#nothing").text
    page.js("page.update({ranks: [], layers: [], hide: ['helix', 'tp', 'dcp', 'medha', 'dp_ep']})")
    assert "All strategies are hidden" in page.find("#nothing").text
    page.js("page.update({hide: ['tp', 'medha', 'dp_ep'], relative: 'yes'})")


def test_narrow_screens_scroll_down_only(page):
    page.open("#pins=" + TRACE["otherData"]["key"], width=400)
    assert page.js("return document.scrollingElement.scrollWidth") <= 400
    assert not page.find("#filters").get_attribute("open")


def test_it_needs_nothing_from_anywhere(page):
    assert page.js("return performance.getEntriesByType('resource').length") == 0
    text = page.path.read_text(encoding="utf-8")
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
