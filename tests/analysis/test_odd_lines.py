"""Whatever stands in a line, every command says one line and 2, or does its work."""

import random

import pytest

from lines import analysis, line, write_run

ODD = (None, "x", "", -1, 0, 5, 1e308, True, [], [1], {}, {"a": 1})


def places(value, path=()):
    """The path of each field."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))


def altered(draw):
    """A line in which one field is missing or is something else, and which."""
    one = line(gpus=draw.choice((None, 8)))
    *outer, name = path = draw.choice(list(places(one)))
    holder = one
    for key in outer:
        holder = holder[key]
    if draw.random() < .3:
        del holder[name]
    else:
        holder[name] = draw.choice(ODD)
    return one, path


@pytest.mark.parametrize("seed", range(4))
def test_every_command_works_or_says_one_line(seed, tmp_path):
    draw = random.Random(seed)
    codes = dict.fromkeys((0, 1, 2, 3), 0)
    for n in range(15):
        odd, path = altered(draw)
        run = write_run(tmp_path / f"{n}", [odd, line("f" * 16, ttl_us=900.0)])
        for command in (["report", run], ["diff", run, run], ["merge", tmp_path / f"{n}-out", run, "--program", "none"],
                        *(["export", run, "--format", kind] for kind in ("csv", "inferencex", "markdown"))):
            done = analysis(*command)
            assert done.returncode in codes, (command, path, done)
            assert done.returncode != 2 or (len(done.stderr.splitlines()), done.stdout) == (1, ""), (path, done)
            codes[done.returncode] += 1
    assert codes[0] and codes[2], codes
