"""The CPU's attention gives what transformers' eager one gives, forwards and backwards."""

import pytest
import torch
from transformers import FalconConfig, Gemma2Config, GPTJConfig, GptOssConfig, LlamaConfig, ModernBertConfig
from transformers.models.llama.modeling_llama import eager_attention_forward

from sklearn_irt.attention import attend, choose_attention

N_TEXTS, N_TOKENS, HEAD_SIZE = 3, 7, 4


class Layer(torch.nn.Module):
    num_key_value_groups = 1


def run(kernel, n_heads, n_key_heads, mask, dtype=torch.float64, **options):
    """Return outputs and the gradients of queries, keys and values."""
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(N_TEXTS, n, N_TOKENS, HEAD_SIZE, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for n in (n_heads, n_key_heads, n_key_heads)
    ]
    layer = Layer()
    layer.num_key_value_groups = n_heads // n_key_heads
    outputs, _ = kernel(layer, *tensors, mask, scaling=0.3, **options)
    weights = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(dtype)
    (outputs * weights).sum().backward()
    return outputs.detach(), *(tensor.grad for tensor in tensors)


def causal_mask(dtype=torch.float64):
    return torch.full((N_TOKENS, N_TOKENS), torch.finfo(dtype).min, dtype=dtype).triu(1).expand(N_TEXTS, 1, -1, -1)


@pytest.mark.parametrize(("n_heads", "n_key_heads"), [(2, 2), (6, 2), (4, 1)])
@pytest.mark.parametrize("masked", [True, False])
def test_outputs_and_gradients_are_those_of_the_eager_attention(n_heads, n_key_heads, masked):
    mask = causal_mask(torch.float32) if masked else None
    ours, eager = (
        run(kernel, n_heads, n_key_heads, mask, torch.float32) for kernel in (attend, eager_attention_forward)
    )
    for mine, expected in zip(ours, eager, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_finite_differences():
    shapes = [(1, 2, 3, 2), (1, 1, 3, 2), (1, 1, 3, 2)]
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    mask = torch.full((3, 3), -1e9, dtype=torch.float64).triu(1)[None, None]

    def outputs(query, key, value):
        return attend(Layer(), query, key, value, mask, scaling=0.3)[0]

    # The scores are summed in fp32, so the steps of the differences must not be too small.
    assert torch.autograd.gradcheck(outputs, tensors, eps=1e-2, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("masked", [True, False])
def test_without_gradients_outputs_are_the_same(masked):
    mask = causal_mask(torch.float32) if masked else None
    expected = run(attend, 6, 2, mask, torch.float32)[0]
    with torch.no_grad():
        tensors = []
        generator = torch.Generator().manual_seed(0)
        for n_heads in (6, 2, 2):
            tensors.append(torch.randn(N_TEXTS, n_heads, N_TOKENS, HEAD_SIZE, generator=generator, dtype=torch.float64))
        outputs, _ = attend(Layer(), *(tensor.float() for tensor in tensors), mask, scaling=0.3)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-6)


def test_dropout_leaves_the_mean_and_follows_torchs_generator():
    def sample(seed):
        torch.manual_seed(seed)
        return run(attend, 2, 2, None, torch.float32, dropout=0.5)

    with torch.random.fork_rng():
        first, again, other = sample(1), sample(1), sample(2)
        mean = torch.stack([sample(seed)[0] for seed in range(400)]).mean(dim=0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    torch.testing.assert_close(mean, run(attend, 2, 2, None, torch.float32)[0], rtol=0, atol=0.25)


def test_dropped_weights_pass_no_gradient_to_the_values():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        *_, value_gradient = run(attend, 1, 1, None, torch.float32, dropout=1.0 - 1e-7)
    assert torch.equal(value_gradient, torch.zeros_like(value_gradient))


@pytest.mark.parametrize("option", ["softcap", "s_aux"])
def test_attention_of_another_kind_is_refused_with_the_cure(option):
    with pytest.raises(NotImplementedError, match="attn_implementation': 'eager'"):
        run(attend, 2, 2, None, torch.float32, **{option: torch.ones(1)})


def test_models_that_cap_their_scores_and_other_devices_keep_transformers_attention():
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    cpu = torch.device("cpu")
    assert choose_attention(Gemma2Config(**sizes), cpu) == {"attn_implementation": "eager"}
    assert choose_attention(LlamaConfig(**sizes), cpu) == {"attn_implementation": "sklearn_irt_grouped"}
    assert choose_attention(LlamaConfig(**sizes), torch.device("cuda")) == {}


@pytest.mark.parametrize("config", [FalconConfig, GPTJConfig, GptOssConfig])
def test_families_whose_attention_takes_no_other_function_keep_their_own(config):
    assert choose_attention(config(), torch.device("cpu")) == {"attn_implementation": "eager"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(), {}),
        (Gemma2Config(sliding_window=64), {"attn_implementation": "eager"}),
        (ModernBertConfig(), {"attn_implementation": "eager"}),
    ],
)
def test_on_a_gpu_transformers_chooses_unless_layers_see_a_window_that_padding_can_fill(config, expected):
    assert choose_attention(config, torch.device("cuda")) == expected
