"""A ReFrame check: runs a sweep, holds that every point was verified, and reports the best figures
of each strategy for a site's references.

    reframe -C SITE_CONFIG -c jobs/reframe/helix_bench.py -r -S sweep=FILE -S num_tasks=8

The program is that of this checkout (make); sweeps are read from it, too. The site's configuration
says how MPI ranks are started (launcher mpirun, or srun with `options: [--mpi=pmix]`).
"""

import json
import os
from pathlib import Path

import reframe as rfm
import reframe.utility.sanity as sn
from reframe.core.builtins import run_before, sanity_function, variable

CHECKOUT = Path(__file__).resolve().parents[2]


@rfm.simple_test
class HelixBench(rfm.RunOnlyRegressionTest):
    descr = "Decode steps under Helix parallelism and its rivals, verified"
    valid_systems = ["*"]
    valid_prog_environs = ["*"]
    sourcesdir = None
    sweep = variable(str, value="configs/sweeps/quickstart.json")
    executor = variable(str, value="cpu")
    num_tasks = 8
    time_limit = "1h"
    tags = {"performance", "mpi"}

    @run_before("run")
    def set_command(self):
        self.executable = str(CHECKOUT / "build/helix-bench")
        self.executable_opts = ["run", str(CHECKOUT / self.sweep), "-o", "out", "--executor",
                                self.executor]

    def lines(self):
        path = os.path.join(self.stagedir, "out/results.jsonl")
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    @sanity_function
    def every_point_is_exact(self):
        """Exit 0, and no line that is not verified."""
        wrong = [line["key"] for line in self.lines()
                 if line["status"] != "ok" or line["verified"] is None]
        return sn.all([sn.assert_eq(self.job.exitcode, 0),
                       sn.assert_false(wrong, msg=f"not verified: {wrong}"),
                       sn.assert_true(self.lines(), msg="no point was run")])

    @run_before("performance")
    def set_figures(self):
        def best(field, unit, strategy):
            values = [line[field] for line in self.lines()
                      if line["point"]["layout"]["strategy"] == strategy]
            return sn.make_performance_function(sn.max(values), unit)

        strategies = sorted({line["point"]["layout"]["strategy"] for line in self.lines()})
        self.perf_variables = {
            f"{strategy}_{field}": best(field, unit, strategy) for strategy in strategies
            for field, unit in (("tokens_per_s_per_user", "token/s"),
                                ("tokens_per_s_per_rank", "token/s"))}
