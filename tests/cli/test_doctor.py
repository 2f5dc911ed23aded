"""`doctor` on this machine: one line a check, exit 0 or 2."""

import os

CHECKS = ["world", "MPI", "messages", "cores", "memory", "locked memory", "shared memory",
          "huge pages", "results folder"]


def checks(result):
    return {line[9:25].strip(): (line[:9].strip(), line[25:]) for line in result.stdout.splitlines()}


def test_one_line_a_check(bench):
    result = bench("doctor", "--executor", "cpu", ranks=2)
    assert result.code == 0, result
    found = checks(result)
    assert list(found) == CHECKS and len(result.stdout.splitlines()) == len(CHECKS)
    assert {health for health, _ in found.values()} <= {"ok", "warning"}
    assert found["world"] == ("ok", "2 ranks on 1 host")
    assert bench.files() == []


def test_without_mpirun(bench):
    result = bench("doctor", "--executor", "cpu")
    assert result.code == 0 and checks(result)["world"] == ("ok", "1 rank on 1 host"), result


def test_ranks_that_do_not_know_of_each_other(bench):
    result = bench("doctor", "--executor", "cpu",
                   env={"PMI_SIZE": "8", "PMI_RANK": "0"})
    assert result.code == 2, result
    health, text = checks(result)["world"]
    assert health == "fault" and "8 ranks were started" in text


def test_more_ranks_than_cores(bench):
    result = bench("doctor", "--executor", "cpu", ranks=1 + len(os.sched_getaffinity(0)))
    health, text = checks(result)["cores"]
    assert result.code == 0 and health == "warning" and "yield" in text, result


def test_a_folder_that_cannot_be(bench):
    (bench.folder / "file").touch()
    result = bench("doctor", "--executor", "cpu", "-o", "file/results")
    health, text = checks(result)["results folder"]
    assert result.code == 2 and health == "fault" and "is no folder" in text, result


def test_no_gpu_executor(bench):
    """Where it was built without CUDA, or has no card, it is said in one line, and what to do."""
    result = bench("doctor", "--executor", "cuda", ranks=2)
    if result.code == 2:
        health, text = list(checks(result).values())[-1]
        assert health == "fault" and "CUDA" in text, result
        assert len(result.stdout.splitlines()) <= len(CHECKS) + 3
