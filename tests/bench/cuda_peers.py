"""What PyTorch takes for the cases of cuda_kernels.cu: scaled_dot_product_attention (flash, cuDNN)
and a linear layer (cuBLAS), in a CUDA graph and called from Python. One JSON line each."""
import json

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def us_of(nodes, node, graph):
    """Microseconds of one call in steady state, as in cuda_kernels.cu; node(i) makes the i-th."""
    return (total_us(3 * nodes, node, graph) - total_us(nodes, node, graph)) / (2 * nodes)


def total_us(nodes, node, graph):
    for i in range(3):
        node(i)
    torch.cuda.synchronize()

    def run():
        for i in range(nodes):
            node(i)

    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            run()
        run = captured.replay
    times = []
    for _ in range(13):
        begin, end = torch.cuda.Event(True), torch.cuda.Event(True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000)
    return sorted(times[3:])[len(times[3:]) // 2]


def say(name, peer, nodes, node):
    for graph in (True, False):
        try:
            line = {"us": round(us_of(nodes, node, graph), 2)}
        except RuntimeError as error:
            line = {"error": str(error).splitlines()[0]}
        print(json.dumps({"case": name, "peer": peer, "graph": graph, **line}), flush=True)


def attention(rows, tokens, heads, kv_heads):
    size = 4 * rows * tokens * kv_heads * 128
    turns = max(2, -(-256_000_000 // size))
    q = torch.randn(rows, heads, 1, 128, device="cuda", dtype=torch.bfloat16)
    kv = [torch.randn(2, rows, kv_heads, tokens, 128, device="cuda", dtype=torch.bfloat16) for _ in range(turns)]
    for backend, peer in ((SDPBackend.FLASH_ATTENTION, "SDPA flash"), (SDPBackend.CUDNN_ATTENTION, "SDPA cuDNN")):
        with sdpa_kernel(backend):
            say(f"attention {rows} x {tokens}, {heads}/{kv_heads}", peer, max(8, min(60, int(1e9 / size))),
                lambda i: torch.nn.functional.scaled_dot_product_attention(
                    q, kv[i % turns][0], kv[i % turns][1], enable_gqa=True))


def linear(rows, outputs, inputs):
    size = 2 * outputs * inputs
    turns = max(2, -(-256_000_000 // size))
    x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
    w = [torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16) for _ in range(turns)]
    say(f"product {rows} x {outputs} x {inputs}", "cuBLAS", max(8, min(60, int(1e9 / size))),
        lambda i: torch.nn.functional.linear(x, w[i % turns]))


with torch.inference_mode():
    for case in ((1, 16384, 16, 1), (1, 32768, 16, 1), (1, 65536, 16, 1), (1, 131072, 16, 1), (1, 262144, 16, 1),
                 (1, 1048576, 16, 1), (8, 16384, 16, 1), (8, 65536, 16, 1), (8, 131072, 16, 1), (32, 16384, 16, 1),
                 (1, 262144, 128, 8), (8, 131072, 128, 8), (1, 131072, 32, 8)):
        attention(*case)
    for rows in (1, 8):
        for outputs, inputs in ((53248, 16384), (16384, 16384), (6656, 16384), (2048, 16384), (16384, 2048),
                                (2048, 7168), (512, 16384), (128, 16384)):
            linear(rows, outputs, inputs)
