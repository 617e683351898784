"""Times the attention of one layer of SmolLM2 on this CPU: torch's fused kernel, transformers' eager one, and ours.

    python examples/benchmarks/attention.py

Takes seconds; set OMP_NUM_THREADS to choose the number of threads. The figures are medians of 20 runs.
"""

import statistics
import time

import torch
from measuring import processor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import eager_attention_forward

from sklearn_irt.attention import attend

N_TEXTS, N_HEADS, N_KEY_HEADS, HEAD_SIZE = 8, 9, 3, 64
KERNELS = {"torch's fused": sdpa_attention_forward, "eager": eager_attention_forward, "ours": attend}


class Layer(torch.nn.Module):
    num_key_value_groups = N_HEADS // N_KEY_HEADS
    is_causal = True


def main():
    print("milliseconds a layer, 8 texts:")
    print(f"{'dtype':>15} {'tokens':>6} {'kernel':>14} {'forward':>8} {'with backward':>13}")
    for dtype in (torch.float32, torch.bfloat16):
        for n_tokens in (64, 128, 192):
            for name, kernel in KERNELS.items():
                forward = time_kernel(kernel, n_tokens, dtype, trains=False)
                both = time_kernel(kernel, n_tokens, dtype, trains=True)
                print(f"{dtype!s:>15} {n_tokens:>6} {name:>14} {forward:>8.2f} {both:>13.2f}")
    print(f"machine: {processor()}, {torch.get_num_threads()} threads")


def time_kernel(kernel, n_tokens, dtype, *, trains):
    query, key, value = (
        torch.randn(N_TEXTS, n_heads, n_tokens, HEAD_SIZE).to(dtype).requires_grad_(trains)
        for n_heads in (N_HEADS, N_KEY_HEADS, N_KEY_HEADS)
    )
    mask = torch.full((n_tokens, n_tokens), torch.finfo(dtype).min, dtype=dtype).triu(1)
    mask = mask.expand(N_TEXTS, 1, n_tokens, n_tokens)
    times = []
    for _ in range(25):
        start = time.perf_counter()
        outputs, _ = kernel(Layer(), query, key, value, mask, scaling=HEAD_SIZE**-0.5, dropout=0.0)
        if trains:
            outputs.backward(torch.ones_like(outputs))
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[5:])


if __name__ == "__main__":
    main()
