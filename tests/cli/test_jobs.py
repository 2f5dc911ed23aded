"""What jobs/job.sh starts the ranks with on the sites that site.sh can describe, as no Slurm here
can show: containers, and cores to bind to."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from conftest import ROOT

NODE = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4",
        "SLURM_CPUS_ON_NODE": "64"}


def launcher(**site):
    done = subprocess.run(["bash", "-c", 'source jobs/job.sh; set_launcher; echo "${launcher[*]}"'],
                          cwd=ROOT, env={"PATH": os.environ["PATH"], **NODE, **site},
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else (done.returncode, done.stderr)


SRUN = "srun --mpi=pmix --wait=20"


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
RECIPE = ROOT / "jobs/spack/packages/helix-bench/package.py"


class Recipe:
    """jobs/spack without Spack: what its directives and its build say. Spack cannot be installed where
    these tests run, so that its own checks of a recipe are not made."""

    def __init__(self, prefix):
        self.said = {"version": [], "depends_on": [], "license": [], "conflicts": []}
        names = {name: self.directive(name) for name in self.said}
        spack = types.ModuleType("spack.package")
        spack.__dict__.update(
            names, spack_cxx="g++-12", MakefilePackage=type("MakefilePackage", (), {}),
            CudaPackage=type("CudaPackage", (), {
                "cuda_arch_values": ("80", "90a"),
                "cuda_flags": staticmethod(lambda values: [
                    f"--generate-code arch=compute_{v},code=sm_{v}" for v in values])}),
            mkdirp=lambda path: Path(path).mkdir(parents=True), install=shutil.copy,
            install_tree=shutil.copytree)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "spack", types.ModuleType("spack"))
            patch.setitem(sys.modules, "spack.package", spack)
            self.package = runpy.run_path(str(RECIPE))["HelixBench"]()
        self.package.prefix = prefix

    def directive(self, name):
        return lambda *words, **how: self.said[name].append((words, how))

    def dependencies(self):
        return {words[0]: how.get("when", "") for words, how in self.said["depends_on"]}

    def targets(self, cuda):
        class Spec(dict):
            variants = {"cuda_arch": types.SimpleNamespace(value=("90a",))}

            def satisfies(self, _):
                return cuda
        self.package.spec = Spec({name: types.SimpleNamespace(prefix=f"/spack/{name}")
                                  for name in ("mpi", "cuda", "nccl")})
        return self.package.build_targets


class Prefix(str):
    """A folder as Spack spells it: prefix.bin, prefix.share.join("x")."""

    def __getattr__(self, name):
        return Prefix(f"{self}/{name}")

    def join(self, name):
        return Prefix(f"{self}/{name}")


def test_spack_knows_every_library():
    packages = re.search(r"^PACKAGES := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    ours = set(re.findall(r"\S+-dev\b", packages)) - {"libgtest-dev", "libgmock-dev"}
    needed = {re.match("[a-z0-9-]+", spec)[0] for spec, when in Recipe("").dependencies().items()
              if not when}
    assert ours == set(LIBRARIES) and needed - {"c", "cxx"} == set(LIBRARIES.values())


def test_spack_asks_for_what_the_makefile_and_the_readme_ask_for():
    recipe = Recipe("")
    assert [words for words, _ in recipe.said["version"]] == [("main",)]
    assert recipe.said["license"] == [(("Apache-2.0",), {})]
    gpu = {spec: when for spec, when in recipe.dependencies().items() if when}
    assert gpu == {"cuda@12.8:": "+cuda", **{f"nccl@2.28: cuda_arch={arch}": f"+cuda cuda_arch={arch}"
                                            for arch in ("80", "90a")}}


@pytest.mark.parametrize("cuda", [False, True])
def test_spack_builds_what_the_makefile_has(cuda):
    """Its words set variables that the Makefile reads, and name a target; make -n takes them."""
    words = Recipe("").targets(cuda)
    makefiles = "".join((ROOT / name).read_text() for name in ("Makefile", "tests/cuda.mk"))
    targets = [word for word in words if "=" not in word]
    for word in words:
        name = word.partition("=")[0]
        pattern = rf"^{name}:" if word in targets else rf"^{name} *[?:]=|\$\({name}\)"
        assert re.search(pattern, makefiles, re.M), word
    assert targets == ["all"]
    if not cuda:
        words = [word for word in words if not word.startswith(("MPI_HOME", "CXX"))]
        done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True,
                              check=False)
        assert done.returncode == 0, done.stderr
    else:
        assert "NVCC_GENCODE=--generate-code arch=compute_90a,code=sm_90a" in words


def test_spack_installs_a_program_that_finds_its_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    prefix = Prefix(tmp_path / "prefix")
    package = Recipe(prefix).package
    package.install(None, prefix)
    found = {}
    package.setup_run_environment(types.SimpleNamespace(set=found.__setitem__))
    done = subprocess.run([f"{prefix}/bin/helix-bench", "list", "models"], cwd=tmp_path,
                          env={**os.environ, **found}, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "tiny-llama" in done.stdout, done


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
