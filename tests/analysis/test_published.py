"""The figures that the README shows are those that its published results give."""

import json
import re
import shutil
import subprocess

import numpy
import pytest
from matplotlib import image

import browser
from analysis import paper
from analysis.results import PROGRAM
from lines import ROOT, analysis, read_run

PUBLISHED = ROOT / "results/published"
RUNS = sorted(path.parent.name for path in PUBLISHED.glob("*/results.jsonl"))
# Mean difference of a colour: letters may be smoothed otherwise, a curve moved by 2 % is 1.5e-3.
SAME = 5e-4
SAME_PAGE = 5e-3


def redrawn(name, folder):
    """{figure: how far it is from the published one}, drawn from the lines in `folder`."""
    shutil.rmtree(folder / "plots", ignore_errors=True)
    done = analysis("figures", folder)
    assert (done.returncode, done.stderr) == (0, "")
    return distances(name, folder)


def distances(name, folder):
    differences = {}
    for path in sorted((PUBLISHED / name / "plots").glob("*.png")):
        shown, drawn = (image.imread(one)[..., :3] for one in (path, folder / "plots" / path.name))
        assert shown.shape == drawn.shape
        differences[path.name] = numpy.abs(shown - drawn).mean()
    return differences


@pytest.mark.parametrize("name", RUNS)
def test_figures_are_redrawn(name, tmp_path):
    differences = redrawn(name, shutil.copytree(PUBLISHED / name, tmp_path / name))
    assert differences and all(difference < SAME for difference in differences.values()), differences


def test_the_papers_figures_are_redrawn(tmp_path, monkeypatch):
    folder = tmp_path / "paper"
    folder.mkdir()
    shutil.copy(PUBLISHED / "paper/paper.json", folder)
    monkeypatch.setattr("sys.argv", ["paper", str(folder)])
    assert paper.main() == 0
    differences = distances("paper", folder)
    assert len(differences) == 6 and all(value < SAME for value in differences.values()), differences


def test_other_numbers_give_another_figure(tmp_path):
    folder = shutil.copytree(PUBLISHED / "crossover", tmp_path / "crossover")
    lines = read_run(folder)
    for one in lines:
        if one["status"] == "ok" and one["point"]["layout"]["strategy"] == "tp":
            one["tokens_per_s_per_user"] *= 1.02
    (folder / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert all(difference > SAME for difference in redrawn("crossover", folder).values())


@pytest.mark.parametrize("name", RUNS)
def test_the_command_that_made_it_is_said(name):
    """In words that a reader can paste, and as the run's own environment recorded it."""
    text = (PUBLISHED / "README.md").read_text(encoding="utf-8")
    command = re.search(rf"(?:run|simulate) (configs/sweeps/\S+\.json) .*-o results/{name}\b", text)
    assert command and (ROOT / command[1]).is_file(), name
    assert f'"{command[1]}"' in (PUBLISHED / name / "environment.json").read_text()


def test_what_was_simulated_is_what_the_program_gives(tmp_path):
    """A machine file or a price that has changed asks for the run to be made again, and for `paper`."""
    done = subprocess.run([PROGRAM, "simulate", "configs/sweeps/crossover.json", "--machine", "gb200-nvl72",
                           "-o", tmp_path / "again"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done

    def times(folder):
        return {one["key"]: one["ttl_us"] and one["ttl_us"]["median"] for one in read_run(folder)}
    published = times(PUBLISHED / "crossover")
    assert times(tmp_path / "again") == {key: us and pytest.approx(us, rel=1e-6) for key, us in published.items()}


def test_a_page_is_made_of_all_of_them(tmp_path):
    done = analysis("report", *(PUBLISHED / name for name in RUNS), "-o", tmp_path / "report.html")
    assert (done.returncode, done.stderr) == (0, "")


@browser.needed
def test_the_readmes_page_is_drawn_again(tmp_path):
    page, picture = tmp_path / "crossover.html", tmp_path / "report.png"
    done = analysis("report", PUBLISHED / "crossover", "-o", page)
    assert done.returncode == 0, done
    shown = image.imread(PUBLISHED / "report.png")[..., :3]

    def difference(script):
        browser.screenshot(page, picture, script, width=shown.shape[1], height=shown.shape[0])
        return numpy.abs(shown - image.imread(picture)[..., :3]).mean()
    assert difference("") < SAME_PAGE < difference("page.update({context: '262144'})")


@pytest.mark.parametrize("page", ["README.md", "results/published/README.md"])
def test_every_link_leads_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text)
    assert links and all((ROOT / page).parent.joinpath(link).exists() for link in links), links
