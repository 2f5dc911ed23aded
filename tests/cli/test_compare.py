"""`compare`: executed lines against the simulator, cover by cover."""

import json

from conftest import ROOT


def test_every_task_is_compared(bench):
    bench("run", bench.sweep(), "-o", "out", ranks=2)
    found = json.loads(bench("compare", "out", "--machine", "epyc-core", "--format", "json").stdout)
    assert found["machine"] == "epyc-core"
    lines = bench.lines("out")
    assert [point["key"] for point in found["points"]] == [line["key"] for line in lines]
    for point, line in zip(found["points"], lines):
        assert {cover["name"]: cover["measured_us"] for cover in point["covers"]} == line["tasks_us"]
        assert abs(sum(cover["share"] for cover in point["covers"]) - 1) < 1e-9
        assert point["measured_us"] == line["ttl_us"]["median"]
        assert point["simulated_us"] > 0


def test_launches_of_a_point_are_one(bench):
    """One launch of three that something disturbed does not count."""
    bench("run", bench.sweep(batch=2, context=64, strategy="tp"), "-o", "out", ranks=2)
    lines = bench.lines("out")
    disturbed = json.loads(json.dumps(lines))
    for line in disturbed:
        line["tasks_us"] = {name: 100 * us for name, us in line["tasks_us"].items()}
    (bench.folder / "lines.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines + disturbed + lines))
    compared = [json.loads(bench("compare", name, "--machine", "epyc-core", "--format", "json").stdout)
                for name in ("out", "lines.jsonl")]
    assert compared[0]["points"] == compared[1]["points"]


def test_ends_with_advice(bench):
    """A machine a thousand times too fast is told which factors are wrong."""
    bench("run", bench.sweep(batch=2, context=64), "-o", "out", ranks=2)
    machine = json.loads((ROOT / "configs/machines/epyc-core.json").read_text())
    machine["factors"]["kernel_us"]["value"] = 1e-4
    machine["peaks"]["read_gb_per_s"]["value"] = 36000
    machine["peaks"]["product_tflops"]["value"] = dict.fromkeys(
        ("fp32", "bf16", "fp8", "nvfp4", "fp4"), 55)
    (bench.folder / "fast.json").write_text(json.dumps(machine))
    lines = bench.lines("out")
    for line in lines:  # on one core they are, and would count for nothing
        line["oversubscribed"] = False
    (bench.folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = bench("compare", "lines.jsonl", "--machine", "fast.json").stdout
    assert "what next, for covers over 25 % off:" in text
    assert "attention takes" in text


def test_what_cannot_be_compared(bench):
    bench("run", bench.sweep(batch=1, context=64, strategy="tp"), "-o", "out", ranks=2)
    bench("simulate", bench.sweep(), "--machine", "h200-sxm", "-o", "simulated")
    for words, what in ((("out", "--machine", "h200-sxm"), "is a GPU"),
                        (("simulated", "--machine", "h200-sxm"), "no executed line"),
                        (("out", "--machine", "h200-smx"), 'did you mean "h200-sxm"?'),
                        (("nowhere", "--machine", "epyc-core"), "nowhere")):
        result = bench("compare", *words)
        assert (result.code, len(result.ours)) == (2, 1), result
        assert what in result.ours[0]


def worst(bench, lines, machine):
    """Of steps, and of tasks of 5 % of theirs: the largest errors."""
    found = json.loads(bench("compare", lines, "--machine", machine, "--format", "json").stdout)["points"]
    steps = [abs(point["simulated_us"] / point["measured_us"] - 1) for point in found]
    tasks = [abs(cover["error"]) for point in found for cover in point["covers"] if cover["share"] >= 0.05]
    return max(steps), max(tasks)


def without_shapes(bench, name):
    machine = json.loads((ROOT / f"configs/machines/{name}.json").read_text())
    for cover in machine["covers"].values():
        cover["value"].pop("shapes", None)
    (bench.folder / "factors.json").write_text(json.dumps(machine))
    return "factors.json"


def test_launches_that_calibrate_did_not_sample(bench):
    """Each of three launches on CPUs of a shared host against the machine file that was made before them;
    control: the file as if attention had been timed while cores were shared."""
    sampled = json.loads((ROOT / "configs/sweeps/calibrate-cpu.json").read_text())
    lines = (ROOT / "results/published/cpu-compared.jsonl").read_text().splitlines()
    machine = json.loads((ROOT / "configs/machines/epyc-calibrated.json").read_text())
    for shape in machine["covers"]["attention"]["value"]["shapes"]:
        shape[-1] *= 1.3
    (bench.folder / "other.json").write_text(json.dumps(machine))
    for launch in (1, 2, 3):
        mine = [line for line in lines if json.loads(line)["repeat"] == launch]
        points = [json.loads(line)["point"] for line in mine]
        assert len(points) == 36
        assert not {point["batch"] for point in points} & set(sampled["batch"])
        assert not {point["context"] for point in points} & set(sampled["context"])
        (bench.folder / "launch.jsonl").write_text("\n".join(mine) + "\n")
        assert worst(bench, "launch.jsonl", "epyc-calibrated")[1] < 0.2
        assert worst(bench, "launch.jsonl", "other.json")[1] > 0.2


def test_shapes_that_calibrate_did_not_sample(bench):
    """Steps of an H200 against the machine file that the same call made of it, from other batches and contexts;
    control: the file without the times of shapes."""
    sweep = json.loads((ROOT / "configs/sweeps/calibrate-gpu.json").read_text())
    sampled = {(point["model"], point["batch"], point["context"]) for point in sweep["points"]}
    sampled |= {(model, batch, context) for model in sweep["model"] for batch in sweep["batch"]
                for context in sweep["context"]}
    lines = (ROOT / "results/published/h200-compared.jsonl").read_text().splitlines()
    points = [json.loads(line)["point"] for line in lines]
    others = [line for line, point in zip(lines, points)
              if (point["model"], point["batch"], point["context"]) not in sampled]
    assert len(others) == 24
    (bench.folder / "others.jsonl").write_text("\n".join(others) + "\n")

    step, task = worst(bench, "others.jsonl", "h200-calibrated")
    assert step < 0.15 and task < 0.2
    step, task = worst(bench, "others.jsonl", without_shapes(bench, "h200-calibrated"))
    assert step > 0.15 and task > 0.2
