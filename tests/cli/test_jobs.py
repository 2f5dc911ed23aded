"""What jobs/job.sh starts the ranks with on the sites that site.sh can describe, as no Slurm here
can show: containers, and cores to bind to."""

import os
import re
import shutil
import subprocess

import pytest
from conftest import ROOT

NODE = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4",
        "SLURM_CPUS_ON_NODE": "64"}


def launcher(**site):
    done = subprocess.run(["bash", "-c", 'source jobs/job.sh; set_launcher; echo "${launcher[*]}"'],
                          cwd=ROOT, env={"PATH": os.environ["PATH"], **NODE, **site},
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else (done.returncode, done.stderr)


SRUN = "srun --mpi=pmix --gpu-bind=none --wait=20"


@pytest.mark.parametrize("site, words", [
    ({}, f"{SRUN} --cpus-per-task=16 --cpu-bind=cores"),
    ({"BIND": "none"}, f"{SRUN} --cpu-bind=none"),
    ({"SLURM_CPUS_ON_NODE": "2"}, f"{SRUN} --overcommit --cpu-bind=none"),
    ({"CONTAINER": "/images/a.sqsh"},
     f"{SRUN} --cpus-per-task=16 --cpu-bind=cores --container-image=/images/a.sqsh "
     f"--container-mounts={ROOT}:{ROOT} --container-workdir={ROOT}"),
    ({"CONTAINER": "a", "CONTAINER_MOUNTS": "/x:/y", "BIND": "none"},
     f"{SRUN} --cpu-bind=none --container-image=a --container-mounts=/x:/y "
     f"--container-workdir={ROOT}"),
    ({"LAUNCHER": "mpirun"},
     "mpirun -n 8 --use-hwthread-cpus --map-by ppr:4:node:PE=16 --bind-to hwthread"),
    ({"LAUNCHER": "mpirun", "BIND": "none"},
     "mpirun -n 8 --map-by ppr:4:node:OVERSUBSCRIBE --bind-to none")])
def test_launchers(site, words):
    assert launcher(**site) == words


@pytest.mark.parametrize("site, said", [
    ({"LAUNCHER": "mpirun", "CONTAINER": "a"}, "CONTAINER needs LAUNCHER=srun"),
    ({"LAUNCHER": "aprun"}, "srun or mpirun")])
def test_what_no_site_has(site, said):
    code, error = launcher(**site)
    assert code == 2 and said in error and error.count("\n") == 1


# Debian's names of libraries and Spack's.
LIBRARIES = {"libopenmpi-dev": "openmpi", "libopenblas-dev": "openblas", "libcli11-dev": "cli11",
             "nlohmann-json3-dev": "nlohmann-json", "libfmt-dev": "fmt", "libhwy-dev": "highway"}


def test_spack_knows_every_library():
    packages = re.search(r"^PACKAGES := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    ours = set(re.findall(r"\S+-dev\b", packages)) - {"libgtest-dev", "libgmock-dev"}
    recipe = (ROOT / "jobs/spack/packages/helix-bench/package.py").read_text()
    named = set(re.findall(r'depends_on\("([a-z0-9-]+)', recipe)) - {"c", "cxx", "cuda", "nccl"}
    assert ours == set(LIBRARIES) and named == set(LIBRARIES.values())


def test_the_image_installs_from_what_it_has_copied(tmp_path):
    """Packages are a layer of their own, made before the sources are there."""
    text, _, _ = (ROOT / "jobs/Containerfile").read_text().partition("RUN make deps")
    copies = re.findall(r"^COPY (.+) (\S+)$", text, re.M)
    assert copies
    for sources, target in copies:
        (tmp_path / target).mkdir(exist_ok=True)
        for source in sources.split():
            shutil.copy(ROOT / source, tmp_path / target)
    done = subprocess.run(["make", "-n", "deps"], cwd=tmp_path, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0 and "libopenmpi-dev" in done.stdout, done
