"""What leaves for other tools is all there, in their words, and safe where it is pasted."""

import csv
import io
import json
import subprocess
import sys

from analysis import export
from lines import ROOT, analysis, line, one_line, write_run


def exported(tmp_path, lines, kind):
    done = analysis("export", write_run(tmp_path / "run", lines), "--format", kind)
    assert done.returncode == 0, done.stderr
    return done


def test_csv_has_every_field_of_every_line(tmp_path):
    lines = [line("a" * 16, hop_b=True), line("b" * 16, status="skipped"),
             line("c" * 16, reason='with "quotes", commas\nand breaks')]
    rows = list(csv.DictReader(io.StringIO(exported(tmp_path, lines, "csv").stdout)))
    assert [row["key"] for row in rows] == [one["key"] for one in lines]
    for one, row in zip(lines, rows):
        flat = {name: value for name, value in export.flatten(one).items() if name != "samples_us"}
        for name, value in flat.items():
            assert row[name] == ("" if value is None else str(value)), name
    assert "samples_us" not in rows[0]


def test_inferencex_rows_use_its_words_and_seconds(tmp_path):
    lines = [line("a" * 16, gpus=8, ttl_us=2000.0, executor="simulate"), line("b" * 16),
             line("c" * 16, status="failed", gpus=8)]
    done = exported(tmp_path, lines, "inferencex")
    row, = json.loads(done.stdout)
    assert (row["tp"], row["dcp_size"], row["conc"], row["isl"]) == (8, 4, 8, 4096)
    assert (row["hw"], row["framework"], row["precision"]) == ("gb200", "helix-bench", "bf16")
    assert row["median_tpot"] == 0.002 and row["median_intvty"] == 500
    assert row["output_tput_per_gpu"] == 500 and "tput_per_gpu" not in row
    assert row["simulated"] is True and "p99_tpot" not in row
    assert "2 lines that failed or ran on no GPU are left out" in done.stderr
    one_line(analysis("export", write_run(tmp_path / "cpu", [line()]), "--format", "inferencex"),
             "no line was measured or simulated on GPUs")


def test_markdown_has_the_frontier_of_the_program_and_no_markup_of_files(tmp_path):
    lines = [line("a" * 16), line("b" * 16, ttl_us=2000.0), line("c" * 16, "tp"),
             line("d" * 16, model="<script>|`*[x](y)")]
    text = exported(tmp_path, lines, "markdown").stdout
    table = [row.split("|")[1].strip() for row in text.splitlines() if row.startswith("| ")]
    assert table == ["strategy", "helix", "strategy", "helix", "tp"]
    assert "\\<script\\>\\|\\`\\*\\[x\\](y)" in text and "<script>" not in text


def test_bad_input_is_one_line(tmp_path):
    for kind in ("csv", "inferencex", "markdown"):
        one_line(analysis("export", tmp_path / "absent", "--format", kind), "absent")
        one_line(analysis("export", write_run(tmp_path / "empty", []), "--format", kind), "no")
        one_line(analysis("export", write_run(tmp_path / "newer", [line(schema="helix-bench/2.0")]),
                          "--format", kind), "newer")


def test_a_package_that_is_missing_is_named(tmp_path):
    script = ("import sys; sys.modules['pandas'] = None; from analysis.__main__ import run; "
              "sys.exit(run(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", script, "export", write_run(tmp_path / "run", [line()]),
                           "--format", "csv"], cwd=ROOT, capture_output=True, text=True, check=False)
    one_line(done, "pandas")
    assert "make deps" in done.stderr
