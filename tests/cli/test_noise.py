"""`--noise-target`: in the sweep, on the command line, and what the line says of it."""

from test_bad_input import refuse


def test_steps_are_repeated_until_the_median_is_known(bench):
    sweep = bench.sweep(batch=1, context=64, strategy="tp",
                        noise={"target_percent": 30, "min_steps": 10, "max_steps": 4000})
    assert bench.run(sweep).code == 0
    line, = bench.lines()
    assert line["steps"] == 2 and 10 <= len(line["samples_us"]) <= 4000
    noise = line["noise"]
    assert (noise["target_percent"], noise["min_steps"], noise["max_steps"]) == (30, 10, 4000)
    assert noise["reached_percent"] <= 30 or len(line["samples_us"]) == 4000


def test_the_command_line_decides(bench):
    sweep = bench.sweep(batch=1, context=64, strategy="tp", noise={"target_percent": 30})
    result = bench.run(sweep, "--noise-target", "0.001", "--max-steps", "7")
    assert result.code == 0, result
    line, = bench.lines()
    assert len(line["samples_us"]) == 7 and line["noise"]["target_percent"] == 0.001
    again = bench("run", "--from", f"out#{line['key']}", "-o", "again", ranks=2)
    assert again.code == 0, again
    assert bench.lines("again")[0]["noise"]["max_steps"] == 7


def test_without_a_target_the_steps_are_those_of_the_sweep(bench):
    assert bench.run(bench.sweep(batch=1, context=64, strategy="tp")).code == 0
    line, = bench.lines()
    assert len(line["samples_us"]) == 2 and line["noise"] is None


def test_wrong_targets(bench):
    sweep = bench.sweep()
    refuse(bench, bench.run(sweep, "--noise-target", "0"), "--noise-target")
    refuse(bench, bench.run(sweep, "--min-steps", "8"), "--noise-target")
    refuse(bench, bench.run(sweep, "--noise-target", "1", "--min-steps", "8", "--max-steps", "4"),
           "--max-steps")
    refuse(bench, bench.run(bench.sweep(noise={"percent": 1})), "/noise")
