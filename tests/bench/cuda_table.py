"""gpu-kernels.jsonl and gpu-peers.jsonl of a folder as one Markdown table."""
import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])


def lines(name):
    path = folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


peers = {}
for line in lines("gpu-peers.jsonl"):
    if "us" in line and line["graph"]:
        peers.setdefault(line["case"], []).append((line["us"], line["peer"]))

print("Microseconds of a graph node in steady state, L2 cold; floor: the bytes at the read ceiling of the same run.\n")
print("| case | ours | floor | ours / floor | GB/s | best peer, same run | peer / ours | peer quoted | quoted / ours |")
print("|---|---|---|---|---|---|---|---|---|")
for line in lines("gpu-kernels.jsonl"):
    if "us" not in line:
        print("| " + ", ".join(f"{k} {v}" for k, v in line.items() if k != "case") + " |")
        continue
    us = line["us"]
    best = min(peers.get(line["case"], [(None, "")]), key=lambda p: p[0] or 0)
    cells = [line["case"], us, line.get("floor_us", ""), line.get("over_floor", ""), line.get("gb_per_s", ""),
             f"{best[0]} {best[1]}" if best[0] else "", round(best[0] / us, 2) if best[0] else "",
             f"{line['peer_us']} {line['peer']}" if "peer" in line else "", line.get("peer_over_ours", "")]
    print("| " + " | ".join(map(str, cells)) + " |")
