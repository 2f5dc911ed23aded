"""Two exports of one point, by CPU and by GPU: equal tokens up to the first margin under the tolerance.

same_tokens.py CPU GPU: folders with decode.safetensors. A request's tokens are compared until the
best logit is no further from the second than twice the tolerance of bf16 steps (2.5e-2 of it):
from there on both may be right. Exits 1 where tokens differ before. Logits may differ by more than
that where a router's tie fell otherwise, so that is said alone.
"""
import array
import json
import struct
import sys

TOLERANCE = 2.5e-2


def load(folder):
    with open(folder + "/decode.safetensors", "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        begin = 8 + size

        def values(name, kind):
            first, last = header[name]["data_offsets"]
            file.seek(begin + first)
            return array.array(kind, file.read(last - first))

        steps, batch, words = header["logits"]["shape"]
        return steps, batch, words, values("tokens", "i"), values("logits", "f")


def main(cpu, gpu):
    steps, batch, words, tokens, logits = load(cpu)
    if load(gpu)[:3] != (steps, batch, words):
        sys.exit("same_tokens.py: the exports are of different points")
    _, _, _, other_tokens, other_logits = load(gpu)
    same = sure = wrong = 0
    error = 0.0  # while both have the same history, relative to the largest logit
    for request in range(batch):
        doubtful = False
        for step in range(steps):
            at = step * batch + request
            mine = logits[at * words:(at + 1) * words]
            best, second = sorted(mine, reverse=True)[:2]
            largest = max(abs(value) for value in mine)
            theirs = other_logits[at * words:(at + 1) * words]
            error = max(error, max(abs(a - b) for a, b in zip(mine, theirs)) / largest)
            doubtful = doubtful or not best - second > 2 * TOLERANCE * abs(best)
            if not doubtful:
                sure += 1
                wrong += tokens[at] != other_tokens[at]
            if tokens[at] != other_tokens[at]:
                break
            same += 1
    print(f"{batch} requests of {steps} steps: {same} tokens the same before the first that is not, "
          f"{sure} before the first margin under the tolerance, {wrong} of them differ; "
          f"logits differ by {error:.1e} of the largest")
    return 1 if wrong or not sure else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
