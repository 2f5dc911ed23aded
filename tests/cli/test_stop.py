"""Signals and the time limit: lines stay whole, exit 75, and --resume completes the sweep."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, MPIRUN, PROGRAM, wait_until


def long_sweep(bench):
    return bench.sweep(batch=[1, 2, 3, 4, 5, 6, 7, 8], context=[100, 200, 300], steps=20)


def ranks_of(launcher):
    """Processes of the program that mpirun has started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return [int(pid) for pid in children]


def complete(bench, sweep):
    result = bench.run(sweep, "--resume")
    assert result.code == 0, result
    assert sorted(line["key"] for line in bench.lines()) == sorted(bench.keys(sweep))


# mpirun passes on USR1. TERM and INT it takes for itself and then ends the job in its own way, so
# they go to a rank, as srun sends them.
@pytest.mark.parametrize("number, to", [(signal.SIGUSR1, "mpirun"), (signal.SIGTERM, "rank"),
                                        (signal.SIGINT, "rank")])
def test_signal(bench, number, to):
    sweep = long_sweep(bench)
    process = bench.start("run", sweep, "-o", "out", ranks=2)
    wait_until(lambda: (bench.folder / "out/results.jsonl").exists()
               and (bench.folder / "out/results.jsonl").stat().st_size > 0)
    os.kill(process.pid if to == "mpirun" else ranks_of(process)[-1], number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75, err
    assert len(bench.lines()) < len(bench.keys(sweep))
    ours = [line for line in err.splitlines() if line.startswith("helix-bench:")]
    assert len(ours) == 1 and number.name in ours[0] and "--resume" in ours[0], err
    complete(bench, sweep)


def test_term_to_mpirun_keeps_lines_whole(bench):
    sweep = long_sweep(bench)
    process = bench.start("run", sweep, "-o", "out", ranks=2)
    wait_until(lambda: (bench.folder / "out/results.jsonl").exists()
               and (bench.folder / "out/results.jsonl").stat().st_size > 0)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert bench.lines()
    complete(bench, sweep)


def test_signal_while_ranks_start(bench):
    """MPI_Init takes long where many ranks start: here one comes late."""
    sweep = bench.sweep()
    late = 'test "$OMPI_COMM_WORLD_RANK" = 0 || sleep 2; exec "$@"'
    process = subprocess.Popen(
        [MPIRUN, "-n", "2", "sh", "-c", late, "sh", PROGRAM, "run", sweep, "-o", "out"],
        cwd=bench.folder, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT)
    started = lambda pid: Path(f"/proc/{pid}/comm").read_text() == "helix-bench\n"
    wait_until(lambda: any(map(started, ranks_of(process))))
    time.sleep(0.5)
    os.kill(next(filter(started, ranks_of(process))), signal.SIGUSR1)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75, err
    assert bench.lines() == []
    complete(bench, sweep)


def test_time_limit(bench):
    sweep = long_sweep(bench)
    result = bench.run(sweep, "--time-limit", "1")
    assert result.code == 75, result
    assert "the time limit" in result.ours[-1] and "--resume" in result.ours[-1]
    assert len(bench.lines()) < len(bench.keys(sweep))
    complete(bench, sweep)


def test_no_time_at_all(bench):
    assert bench.run(bench.sweep(), "--time-limit", "0").code == 75
    assert bench.lines() == []
