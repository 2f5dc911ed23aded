"""A terminal sees a progress bar in one line; a file sees one line a point (test_run.py)."""

import os
import pty
import subprocess

from conftest import ENVIRONMENT


def seen_on_terminal(bench, *words, ranks):
    """stderr as a terminal of 80 columns gets it."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        bench.command(*words, ranks=ranks), cwd=bench.folder, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=slave, env=ENVIRONMENT)
    os.close(slave)
    seen = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # the last writer is gone
            break
        if not part:
            break
        seen += part
    os.close(master)
    assert process.wait(60) == 0, seen
    return seen.decode()


def check_bar(text, points):
    frames = [frame for frame in text.split("\r") if frame.startswith("[")]
    assert frames, text
    assert all(len(frame.split("\x1b")[0]) < 80 for frame in frames), frames
    assert frames[0].startswith("[" + 20 * ".") and f" 0/{points} " in frames[0]
    assert f" {points}/{points} " in frames[-1] and "#" * 20 in frames[-1]
    assert "tiny-llama" in frames[0] and " left" in frames[0]
    # One line in the end, and the bar is wiped off.
    assert text.count("\n") == 1 and f"{points} of {points} points ok" in text
    assert "\r\x1b[K" in text


def test_alone(bench):
    sweep = bench.sweep(ranks=1, strategy="tp")
    check_bar(seen_on_terminal(bench, "run", sweep, "-o", "out", ranks=0), len(bench.keys(sweep)))


def test_under_mpirun(bench):
    sweep = bench.sweep()
    check_bar(seen_on_terminal(bench, "run", sweep, "-o", "out", ranks=2), len(bench.keys(sweep)))

