"""jobs/ on a real Slurm, with real MPI ranks: what users submit, and what then goes wrong.
timeout: 400
"""

import os
import re
import signal
import time

import pytest
from conftest import PROGRAM

TWO_NODES = "--nodes=2 --ntasks-per-node=2"
TWO_RANKS = "--nodes=1 --ntasks-per-node=2"


def wait_for_lines(checkout, number):
    checkout.cluster.wait(lambda: len(checkout.lines()) >= number, f"{number} lines")


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_a_job(checkout, launcher):
    """On two nodes, with all GPUs of a node to be seen by each rank."""
    sweep = checkout.sweep(2, ranks=4)
    [job] = checkout.submit(sweep, LAUNCHER=launcher, SBATCH=f"{TWO_NODES} --gpus-per-node=4")
    checkout.finished(job)
    checkout.check_complete(sweep)
    assert {line["ranks"] for line in checkout.lines()} == {4}
    assert " points ok; results/small/results.jsonl" in checkout.log()


@pytest.mark.parametrize("options, shown", [
    ("--gpus-per-node=4", ["0,1,2,3"] * 4), ("--gpus-per-node=2", ["0,1"] * 4),
    ("--gpus-per-task=1", ["0", "1", "2", "3"]),
    ("--gpus-per-node=4 --gpus-per-task=1", ["0", "1", "2", "3"])])
def test_ranks_see_all_gpus_or_their_own(checkout, options, shown):
    """Four ranks on each of two nodes; the program takes the right one of what it sees
    (tests/unit/cards_test.cpp)."""
    sweep = checkout.sweep(1, ranks=8, tpa=1)
    [job] = checkout.submit(sweep, SBATCH=f"--nodes=2 --ntasks-per-node=4 {options}",
                            SEEN=str(checkout.folder / "seen"))
    checkout.finished(job)
    found = [path.read_text().split() for path in sorted(checkout.folder.glob("seen-*"))]
    assert found == [[str(node), str(rank), gpus] for node in range(2)
                     for rank, gpus in enumerate(shown)]


def test_exit_codes_reach_slurm(checkout):
    sweep = checkout.sweep(2)
    [job] = checkout.submit(sweep, SBATCH=TWO_RANKS, HELIX_BENCH_FAULT="wrong:rank=0:point=2")
    checkout.finished(job, "FAILED", "1:0")
    refused = checkout.run("jobs/submit.sh", checkout.sweep(2, name="bad", ranks=0))
    assert refused.returncode == 2 and "/ranks" in refused.stderr, refused


def test_an_array_with_a_slow_slice(checkout):
    sweep = checkout.sweep(8)
    array, collecting = checkout.submit(sweep, SLICES="4", SLOW_SLICE="2", SBATCH=TWO_RANKS)
    checkout.finished(collecting)
    checkout.check_complete(sweep)
    for task in range(1, 5):
        assert len(checkout.lines(f"small-{task}-of-4")) == 4
        checkout.finished(f"{array}_{task}")
    assert (checkout.folder / "results/small/sweep.json").exists()


def test_a_slice_fails(checkout):
    """What is missing is said, with the line that goes on with it."""
    sweep = checkout.sweep(6)
    victims = [i + 1 for i, point in enumerate(checkout.plan(sweep, 4)) if point["slice"] == 3]
    array, collecting = checkout.submit(sweep, SLICES="4", SBATCH=TWO_RANKS,
                                        HELIX_BENCH_FAULT=f"kill:rank=1:point={victims[1]}")
    checkout.finished(collecting, "FAILED", "3:0")
    checkout.finished(f"{array}_1")
    assert checkout.cluster.job(f"{array}_3")["JobState"] == "FAILED"
    log = checkout.log()
    assert re.search(r"^slice 3 of 4: 1 of 3 points done$", log, re.MULTILINE), log
    assert "slice 1 of 4" not in log and "missing" in log, log
    assert len(checkout.lines()) == 10
    again = re.search(r"^to go on with what is missing: (SLICES=4 OUT=.*)$", log, re.MULTILINE)[1]
    result = checkout.run("bash", "-c", again.replace(" sbatch ", f" sbatch --parsable {TWO_RANKS} "))
    assert result.returncode == 0, result
    checkout.finished(f"{result.stdout.strip()}_3")
    collected = checkout.run("jobs/collect.sh", sweep, "results/small", "4")
    assert collected.returncode == 0, collected
    checkout.check_complete(sweep)


def test_two_arrays_at_once(checkout):
    sweeps = [checkout.sweep(4, name=name, seed=seed) for name, seed in (("one", 1), ("two", 2))]
    jobs = [checkout.submit(sweep, SLICES="2", SBATCH=TWO_RANKS) for sweep in sweeps]
    for name, sweep, (_, collecting) in zip(("one", "two"), sweeps, jobs):
        checkout.finished(collecting)
        checkout.check_complete(sweep, name)


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_warned_then_requeued(checkout, launcher):
    sweep = checkout.sweep(20, steps=10)
    [job] = checkout.submit(sweep, SBATCH=TWO_RANKS, LAUNCHER=launcher)
    wait_for_lines(checkout, 3)
    checkout.cluster.run("scancel", "--batch", "-s", "USR1", job)
    assert checkout.finished(job)["Restarts"] == "1", checkout.log()
    checkout.check_complete(sweep)
    assert checkout.log().count("stopped by SIGUSR1: --resume goes on") == 1, checkout.log()


def test_a_point_that_does_not_end_in_time(checkout):
    """The job goes back into the queue without waiting for it."""
    sweep = checkout.sweep(4)
    [job] = checkout.submit(sweep, SBATCH=TWO_RANKS, GRACE_S="2",
                            HELIX_BENCH_FAULT="hang:rank=1:point=3")
    wait_for_lines(checkout, 2)
    checkout.cluster.run("scancel", "--batch", "-s", "USR1", job)
    assert checkout.finished(job)["Restarts"] == "1", checkout.log()
    checkout.check_complete(sweep)


def test_no_point_in_the_whole_time(checkout):
    """Going on would not help."""
    sweep = checkout.sweep(2)
    [job] = checkout.submit(sweep, "--time-limit", "0", SBATCH=TWO_RANKS)
    assert checkout.finished(job, "FAILED", "75:0")["Restarts"] == "0"
    assert "give more time" in checkout.log()


def test_cancelled_in_the_middle(checkout):
    """Is not put back into the queue; submitted again it goes on."""
    sweep = checkout.sweep(20, steps=10)
    [job] = checkout.submit(sweep, SBATCH=TWO_RANKS)
    wait_for_lines(checkout, 3)
    checkout.cluster.run("scancel", job)
    assert checkout.cluster.wait_job(job)["JobState"] == "CANCELLED"
    [again] = checkout.submit(sweep, SBATCH=TWO_RANKS)
    checkout.finished(again)
    checkout.check_complete(sweep)
    assert checkout.cluster.job(job)["Restarts"] == "0"


def test_a_rank_is_killed(checkout):
    sweep = checkout.sweep(4)
    fault = {"HELIX_BENCH_FAULT": "kill:rank=1:point=4"}
    [job] = checkout.submit(sweep, SBATCH=TWO_RANKS, **fault)
    assert checkout.cluster.wait_job(job)["JobState"] == "FAILED", checkout.log()
    assert len(checkout.lines()) == 3
    [again] = checkout.submit(sweep, SBATCH=TWO_RANKS)
    checkout.finished(again)
    checkout.check_complete(sweep)


def test_a_node_is_lost(checkout):
    """Its old step lives on and holds the lock: the job, started anew elsewhere, waits for it."""
    cluster = checkout.cluster
    sweep = checkout.sweep(4)
    [job] = checkout.submit(sweep, SBATCH=TWO_RANKS, HELIX_BENCH_FAULT="hang:rank=1:point=4")
    wait_for_lines(checkout, 3)
    node = cluster.job(job)["NodeList"]
    ranks = {pid for pid, line in cluster.processes().items() if line.startswith(str(PROGRAM))}
    os.kill(cluster.pid(node), signal.SIGKILL)
    try:
        # Slurm would see it by itself, after a while.
        cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")
        cluster.wait(lambda: cluster.job(job).get("Restarts") == "1", "a requeue")
        assert cluster.wait_job(job, "RUNNING")["NodeList"] != node
        cluster.wait(lambda: {pid for pid, line in cluster.processes().items()
                              if line.startswith(str(PROGRAM))} - ranks, "ranks elsewhere")
        time.sleep(2)
        assert len(ranks) == 2 and ranks <= cluster.processes().keys(), checkout.log()
        assert len(checkout.lines()) == 3
        for pid in ranks:
            os.kill(pid, signal.SIGKILL)
        checkout.finished(job)
        checkout.check_complete(sweep)
    finally:
        cluster.start_daemon(node)
        cluster.wait(lambda: cluster.states() == ["idle"] * 3, "the node's return")


def test_nothing_is_left(cluster):
    """Once all jobs have ended only the daemons run; must stand last."""
    cluster.wait(lambda: not cluster.run("squeue", "-h").stdout, "an empty queue")
    daemons = re.compile(r"(slurmctld|slurmd|munged) |: slurmscriptd")
    cluster.wait(lambda: all(map(daemons.match, cluster.processes().values())),
                 f"the end of {cluster.processes()}", 10)
