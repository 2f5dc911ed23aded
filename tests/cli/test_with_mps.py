"""jobs/with-mps.sh with an MPS made of shell: whatever happens, no daemon and no folder is left."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, wait_until

# Starts, answers and quits like the real one. FAULT: it does not start, or never quits.
CONTROL = """\
#!/bin/bash
pipe=$CUDA_MPS_PIPE_DIRECTORY
if [ "$1" = -d ]; then
  [ "$FAULT" != start ] || { echo "cannot find a GPU"; exit 1; }
  trap : TERM
  bash -c 'while [ ! -e "$0/quit" ]; do read -rt 0.05 <> <(:); done' "$pipe" nvidia-cuda-mps-server &
  echo $! > "$pipe/daemon"
  exit 0
fi
read -r word
[ -e "$pipe/daemon" ] || exit 1
[ "$FAULT" != mute ] || exit 1
case "$word" in quit) [ "$FAULT" = quit ] || touch "$pipe/quit" ;; esac
"""


class Mps:
    def __init__(self, folder):
        self.folder = folder
        (folder / "bin").mkdir()
        control = folder / "bin/nvidia-cuda-mps-control"
        control.write_text(CONTROL)
        control.chmod(0o755)
        self.seen = folder / "seen"  # the command's MPS folder

    def start(self, script, **environment):
        return subprocess.Popen(
            [ROOT / "jobs/with-mps.sh", "bash", "-c",
             f'echo "$CUDA_MPS_PIPE_DIRECTORY" > "{self.seen}"; {script}'],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}", **environment})

    def run(self, script, **environment):
        process = self.start(script, **environment)
        _, err = process.communicate(timeout=60)
        return process.returncode, err

    def check_nothing_left(self):
        pipe = Path(self.seen.read_text().strip())
        assert pipe.name == "pipe" and not pipe.parent.exists()
        mark = f"CUDA_MPS_PIPE_DIRECTORY={pipe}\0".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                assert mark not in (process / "environ").read_bytes(), process
            except OSError:
                pass  # ended meanwhile


@pytest.fixture
def mps(tmp_path):
    return Mps(tmp_path)


@pytest.mark.parametrize("code", [0, 7, 75])
def test_exits_as_the_command_does(mps, code):
    alive = 'kill -0 "$(cat "$CUDA_MPS_PIPE_DIRECTORY/daemon")" || exit 99; '
    assert mps.run(f"{alive} exit {code}") == (code, "")
    mps.check_nothing_left()


def test_cards_are_counted_from_0(mps):
    check = '[ "$CUDA_VISIBLE_DEVICES" = "0,1" ] || exit 9'
    assert mps.run(check, CUDA_VISIBLE_DEVICES="3,1") == (0, "")
    assert mps.run('[ -z "${CUDA_VISIBLE_DEVICES:-}" ] || exit 9', CUDA_VISIBLE_DEVICES="") == (0, "")


def test_a_command_that_is_killed(mps):
    code, _ = mps.run("kill -KILL $$")
    assert code == 128 + signal.SIGKILL
    mps.check_nothing_left()


@pytest.mark.parametrize("number, heard", [(signal.SIGUSR1, "USR1"), (signal.SIGTERM, "TERM"),
                                           (signal.SIGINT, "TERM")])
def test_signals_are_passed_on(mps, number, heard):
    process = mps.start(f"trap 'exit 75' {heard}; touch '{mps.folder}/up'; "
                        "while :; do read -rt 0.05 <> <(:); done")
    wait_until((mps.folder / "up").exists)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 75
    mps.check_nothing_left()


def test_does_not_start(mps):
    code, err = mps.run("touch ran", FAULT="start")
    assert code == 3 and "cannot find a GPU" in err
    assert not mps.seen.exists()


def test_does_not_answer(mps):
    code, err = mps.run("touch ran", FAULT="mute")
    assert code == 3 and "does not answer" in err
    assert not mps.seen.exists()


def test_does_not_quit(mps):
    code, err = mps.run("exit 5", FAULT="quit")
    assert code == 5 and "killing process" in err
    mps.check_nothing_left()


def test_is_not_there():
    words = [ROOT / "jobs/with-mps.sh", "true"]
    result = subprocess.run(words, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert result.returncode == 2 and "nvidia-cuda-mps-control is not there" in result.stderr
    assert subprocess.run(words[:1], capture_output=True).returncode == 2
