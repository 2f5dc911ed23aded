"""What the page does with odd results: ties, no Baseline, hostile text, very many points, bad input."""

import random

import browser
from analysis import report
from browser import Page, write_page
from frontiers import curves_of
from lines import ENVIRONMENT, analysis, line, one_line, write_run

pytestmark = browser.needed


def test_its_own_frontier_is_the_programs_on_points_with_ties(driver, tmp_path):
    draw = random.Random(5)
    lines = [line(f"{n:016x}", draw.choice(("helix", "tp", "medha", "dp_ep")), 1000.0 / draw.randint(1, 9),
                  batch=draw.choice((1, 2, 4)), error=draw.choice((1e-6, 1e-6, 1e-6, .5, None)),
                  tokens_per_s_per_rank=float(draw.randint(1, 9))) for n in range(400)]
    page = Page(driver, write_page(tmp_path / "ties", lines), driver.downloads).open()
    rows = page.rows()
    assert len(rows) == 400
    for name, members in (("frontier", list(curves_of(rows))),
                          ("hull", [[row for row in rows if row["strategy"] != "helix"]])):
        for curve in members:
            found = page.js("""const r = page.data.rows;
                const proven = r.proof.map((proof) => proof === 'verified' || proof === 'simulated');
                return page.strictFrontier(arguments[0], r.x, r.y, proven)""", [row["i"] for row in curve])
            assert sorted(found) == sorted(row["i"] for row in curve if row[name])
    page.quiet()


def test_without_a_baseline_the_gap_is_named(driver, tmp_path):
    page = Page(driver, write_page(tmp_path / "lonely", [line(), line("b" * 16, ttl_us=500.0, batch=1)]),
                driver.downloads).open()
    assert page.find("#relative").get_attribute("disabled")
    assert "no Baseline here" in page.find("#headline").text
    assert "no Baseline point here" in page.find("#legend").text
    page.open("#relative=yes")
    assert "No Baseline point" in page.find("#nothing").text
    page.quiet()


HOSTILE = ["<script>window.hacked = 1</script>", "</script><script>window.hacked = 1</script>",
           '"><img src=x onerror="window.hacked = 1">', "<svg onload=window.hacked=1>", "__proto__",
           "constructor", "javascript:window.hacked=1", "=1+1", "@DATA@ @SCRIPT@", "a\u2028b\x00\x1b[2Jc"]


def test_text_from_results_never_runs(driver, tmp_path):
    lines = []
    for n, name in enumerate(HOSTILE):
        odd = line(f"{n:016x}", ttl_us=1000.0 + n, model=HOSTILE[n % 3], machine=name, environment=name,
                   tasks_us={name: 5.0, "attention": 3.0}, started=name)
        odd["point"]["layout"]["strategy"] = odd["point"]["layout"]["merge"] = name
        lines += [odd, line(f"{n + 32:016x}", status="failed", reason=name, machine=name)]
    folder = tmp_path / "<img src=x onerror=window.hacked=1> @SCRIPT@"
    path = write_page(folder, lines, environment={name: {"machine": {"cpu": name, name: [name]},
                                                         "build": {"commit": name}} for name in HOSTILE})
    page = Page(driver, path, driver.downloads).open()
    for model in HOSTILE[:3]:
        page.choose("model", model)
        page.js("page.update({pins: page.currentView().rows.map((i) => page.data.rows.id[i])})")
        page.js("page.currentView().rows.forEach((i) => document.getElementById('plot').dispatchEvent(new PointerEvent('pointermove', {"
                "clientX: document.getElementById('plot').getBoundingClientRect().left + page.currentPlot().px(i),"
                "clientY: document.getElementById('plot').getBoundingClientRect().top + page.currentPlot().py(i)})))")
        svg = page.js("return page.pictureSvg(page.currentView(), 800, 500)")
        assert "<script" not in svg and "<img" not in svg and "<svg onload" not in svg
    assert page.js("return window.hacked") is None
    assert page.js("return document.scripts.length") == 2
    assert page.js("return document.querySelectorAll('img, iframe, [onerror], [onload]').length") == 0
    table = page.js("return page.toCsv(page.data.rows.key.map((_, i) => i))")
    assert "\n=1+1" not in table and ",=1+1" not in table
    page.quiet()


def many(count):
    """So many points, straight into the page's form; the program's marks are of no interest here.
    Of more than 5000 only the speeds differ, which keeps the making of them short."""
    draw = random.Random(6)
    rows = []
    for n in range(min(count, 5000)):
        strategy, batch = draw.choice(("helix", "tp", "dcp", "medha", "dp_ep")), 2 ** draw.randrange(7)
        chips, ttl = 2 ** draw.randrange(3, 7), draw.lognormvariate(8, 1)
        one = line(f"{draw.getrandbits(64):016x}", strategy, ttl, batch=batch, gpus=chips, executor="simulate",
                   hop_b=draw.random() < .5)
        one["tasks_us"] = {name: us * draw.random() for name, us in one["tasks_us"].items()}
        rows.append(({name: report.field(one, path) for name, path in report.FIELDS.items()} | {
            "key": one["key"], "strategy": strategy, "label": f"KVP{chips}→TPF{chips}", "options": "",
            "batch": batch, "ranks": chips, "gpus": chips, "repeats": 1, "floor_share": draw.random(),
            "max_rel_err": None, "tolerance": None, "proof": "simulated", "frontier": n < 100,
            "hull": 100 <= n < 150, "line": f"results.jsonl:{n + 1}", "panel": 0, "exchange": "nccl",
            "shard": None, "file": "results.jsonl"}, one))
    rows, lines = zip(*(rows * (count // len(rows))))
    rows = [row | {"x": 1e6 / ttl, "y": 1e6 / ttl * row["batch"] / row["gpus"], "ttl": ttl, "low": ttl, "high": ttl}
            for row in rows for ttl in [draw.lognormvariate(8, 1)]]
    panel = {"model": "llama-405b", "context": "1048576", "precision": "fp4", "routing": "", "kind": "simulated",
             "executor": "simulate", "machine": "gb200", "hardware": "unknown", "unit": "GPU",
             "oversubscribed": False, "commits": ["0123"], "layer": "simulated: gb200", "count": count}
    return {"panels": [panel], "columns": report.columns_of(rows), "tasks": report.tasks_of(lines),
            "baseline": ["tp", "dp_ep", "medha"], "styles": report.STYLES, "other": report.OTHER,
            "environments": {"e": ENVIRONMENT["e"]}, "unmeasured": [], "notes": [], "traces": [],
            "sources": [], "command": "", "subtitle": ""}


def busy_ms(driver):
    """Milliseconds of CPU that the page's main thread has taken: script, style and layout."""
    return next(1e3 * metric["value"] for metric in
                driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
                if metric["name"] == "TaskDuration")


def test_size_and_speed_of_many_points(driver, tmp_path):
    """Sizes are judged; times are printed, for whoever measures on a machine of his own."""
    for count in (5000, 50000):
        path = tmp_path / f"{count}.html"
        path.write_text(report.assemble(many(count), str(count)), encoding="utf-8")
        page = Page(driver, path, driver.downloads).open()
        size = path.stat().st_size / 1e6
        paint = page.js("return performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        busy = []
        for n, filtering in enumerate((lambda: page.click('#ranks input[value="64"]'), lambda: page.choose("x", "ttl"),
                                       lambda: page.click('#hop input[value="on"]'), lambda: page.click("#reset"))):
            before = busy_ms(driver)
            filtering()
            browser.wait(driver, f"return performance.getEntriesByName('update').length === {n + 1}")
            busy.append(round(busy_ms(driver) - before))
            assert 0 < len(page.standing()) < count and (len(page.rows()) < count) == (n < 3)
        seen = page.js("return performance.getEntriesByName('update').map((entry) => Math.round(entry.duration))")
        print(f"{count} points: {size:.2f} MB, first paint {paint:.0f} ms, filters answer in {seen} ms "
              f"(of CPU {busy} ms)")
        assert size <= 4 * count / 5000
        page.quiet()


def test_bad_input_is_one_line(tmp_path):
    good = write_run(tmp_path / "good", [line()])
    one_line(analysis("report", tmp_path / "absent"), "absent")
    one_line(analysis("report", write_run(tmp_path / "empty", [])), "no point was measured")
    one_line(analysis("report", write_run(tmp_path / "skipped", [line(status="skipped")])), "no point was measured")
    one_line(analysis("report", good, write_run(tmp_path / "newer", [line(schema="helix-bench/2.0")])), "newer")
    one_line(analysis("report", write_run(tmp_path / "nan", [line(ttl_us=float("nan")), line()])),
             "nan/results.jsonl:1")
    one_line(analysis("report", good, "--program", tmp_path / "none"), "cannot be run")
    torn = write_run(tmp_path / "torn", [line()], tail='{"schema": "helix')
    done = analysis("report", torn)
    assert done.returncode == 0 and "cut off in writing" in done.stderr
    assert (torn / "report.html").exists()
