"""A folded adapter computes what peft's own does, and notices every change of its matrices."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from sklearn_irt.folding import AdaptedLinear, fold_adapters

KINDS = ["linear", "conv1d"]


class OneLayer(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer = nn.Linear(12, 20) if kind == "linear" else Conv1D(20, 12)
        nn.init.normal_(self.layer.bias)


def peft_layer(kind, dtype=torch.float32, **options):
    """Return a layer as peft made it, with random A and B in fp32."""
    generator = torch.Generator().manual_seed(0)
    model = OneLayer(kind)
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    model.to(dtype)
    defaults = {"r": 4, "lora_alpha": 10, "target_modules": ["layer"], "fan_in_fan_out": kind == "conv1d"}
    inject_adapter_in_model(LoraConfig(**{**defaults, **options}), model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return model.eval()


def matrices(model):
    adapter = model.layer
    return adapter.lora_A["default"].weight, adapter.lora_B["default"].weight


def formula(model, x):
    """y = x (W + s B A)^T + b, in fp32, with s = alpha / rank."""
    A, B = matrices(model)
    base = model.layer.base_layer
    W = base.weight.T if isinstance(base, Conv1D) else base.weight
    return x.float() @ (W.float() + 10 / 4 * B @ A).T + base.bias.float()


@pytest.fixture(params=KINDS)
def folded(request):
    model = peft_layer(request.param)
    assert len(fold_adapters(model)) == 1
    assert isinstance(model.layer.forward, AdaptedLinear)
    return model


@pytest.fixture
def foldings(monkeypatch):
    """Return a list that grows by an entry each time a weight is folded."""
    counted = []
    fold = AdaptedLinear._fold

    def counting(adapted, A, B):
        counted.append(A.shape)
        return fold(adapted, A, B)

    monkeypatch.setattr(AdaptedLinear, "_fold", counting)
    return counted


@pytest.fixture
def x():
    return torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use_rslora", [False, True])
def test_outputs_and_gradients_are_those_of_peft(kind, use_rslora, x):
    plain = peft_layer(kind, use_rslora=use_rslora)
    folded = copy.deepcopy(plain)
    assert len(fold_adapters(folded)) == 1
    outputs, gradients = [], []
    for model in (plain, folded):
        inputs = x.clone().requires_grad_(True)
        outputs.append(model.layer(inputs))
        (outputs[-1] ** 3).sum().backward()
        gradients.append([inputs.grad, *(matrix.grad for matrix in matrices(model))])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-4)
    for mine, peft in zip(*gradients[::-1], strict=True):
        torch.testing.assert_close(mine, peft, rtol=1e-4, atol=1e-4 * peft.abs().max().item())
    with torch.no_grad():
        torch.testing.assert_close(folded.layer(x), plain.layer(x), rtol=1e-5, atol=1e-4)


def test_outputs_are_those_of_the_formula(folded, x):
    torch.testing.assert_close(folded.layer(x), formula(folded, x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_it_follows_the_optimizer(folded, x, fused):
    optimizer = torch.optim.AdamW(matrices(folded), lr=0.1, fused=fused)
    for _ in range(3):
        before = folded.layer(x).detach()
        folded.layer(x).pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():  # as in a validation pass
            after = folded.layer(x)
        assert not torch.allclose(before, after)
        torch.testing.assert_close(after, formula(folded, x), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(folded.layer(x), formula(folded, x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_it_follows_a_last_step_after_which_it_is_frozen(folded, x, fused):
    with torch.no_grad():
        folded.layer(x)  # known before
    optimizer = torch.optim.AdamW(matrices(folded), lr=0.1, fused=fused)
    folded.layer(x).pow(2).sum().backward()
    optimizer.step()
    folded.requires_grad_(False)
    torch.testing.assert_close(folded.layer(x), formula(folded, x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("assign", [False, True])
def test_it_follows_loaded_matrices(folded, x, assign):
    with torch.no_grad():
        before = folded.layer(x)
    state = {name: -2 * tensor if "lora_B" in name else tensor + 1 for name, tensor in folded.state_dict().items()}
    own = {name: tensor for name, tensor in state.items() if "lora_" in name}
    folded.load_state_dict(own, strict=False, assign=assign)
    for requires_grad in (True, False):
        folded.requires_grad_(False)
        for matrix in matrices(folded):
            matrix.requires_grad_(requires_grad)
        with torch.no_grad():
            after = folded.layer(x)
        assert not torch.allclose(before, after)
        torch.testing.assert_close(after, formula(folded, x), rtol=1e-5, atol=1e-4)


def test_it_is_folded_once_while_it_is_frozen_and_nothing_changes(folded, x, foldings):
    folded.requires_grad_(False)
    with torch.no_grad():
        for _ in range(4):
            folded.layer(x)
    assert len(foldings) == 1
    with torch.inference_mode():
        folded.layer(x)
    inputs = x.clone().requires_grad_(True)
    folded.layer(inputs).sum().backward()  # a frozen adapter in training, below one that learns
    assert inputs.grad is not None
    assert len(foldings) == 1
    with torch.no_grad():
        matrices(folded)[0].mul_(2)
        folded.layer(x)
        folded.layer(x)
    assert len(foldings) == 2


def test_a_fused_step_between_two_predictions_is_seen(folded, x):
    optimizer = torch.optim.AdamW(matrices(folded), lr=0.1, fused=True)
    folded.layer(x).pow(2).sum().backward()
    with torch.no_grad():
        folded.layer(x)
    optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(folded.layer(x), formula(folded, x), rtol=1e-5, atol=1e-4)


def test_a_layer_that_runs_twice_in_a_step_gets_both_gradients(folded, x):
    (folded.layer(x) * folded.layer(x + 1)).sum().backward()
    gradients = [matrix.grad.clone() for matrix in matrices(folded)]
    expected = torch.autograd.grad((formula(folded, x) * formula(folded, x + 1)).sum(), matrices(folded))
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-4 * reference.abs().max().item())


def test_it_trains_after_it_predicted_in_inference_mode(folded, x):
    with torch.inference_mode():
        folded.layer(x)
    folded.layer(x).sum().backward()
    assert all(matrix.grad.abs().sum() > 0 for matrix in matrices(folded))
    folded.requires_grad_(False)
    inputs = x.clone().requires_grad_(True)
    with torch.inference_mode():
        folded.layer(x)
    folded.layer(inputs).sum().backward()
    assert inputs.grad is not None


def test_a_frozen_adapter_lets_the_gradient_through(folded, x):
    folded.requires_grad_(False)
    inputs = x.clone().requires_grad_(True)
    folded.layer(inputs).pow(2).sum().backward()
    reference = x.clone().requires_grad_(True)
    formula(folded, reference).pow(2).sum().backward()
    torch.testing.assert_close(inputs.grad, reference.grad, rtol=1e-4, atol=1e-3)
    assert all(matrix.grad is None for matrix in matrices(folded))


def test_a_frozen_weight_is_not_changed(folded, x):
    before = folded.layer.base_layer.weight.clone()
    folded.layer(x).sum().backward()
    with torch.no_grad():
        folded.layer(x)
    assert torch.equal(folded.layer.base_layer.weight, before)
    assert folded.layer.base_layer.weight.grad is None


@pytest.mark.parametrize(
    "options",
    [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}, {"bias": "lora_only"}],
    ids=["dropout", "DoRA", "bias of the adapter", "trained bias"],
)
def test_what_is_more_than_two_matrices_runs_as_peft_wrote_it(options, x):
    model = peft_layer("linear", **options)
    plain = copy.deepcopy(model)
    assert fold_adapters(model) is None
    assert not isinstance(model.layer.forward, AdaptedLinear)
    for training in (False, True):
        outputs = []
        for layer in (plain.train(training).layer, model.train(training).layer):
            torch.manual_seed(0)
            outputs.append(layer(x))
        assert torch.equal(*outputs)
    if "bias" in options:
        model.layer(x).sum().backward()
        assert model.layer.base_layer.bias.grad is not None


@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_it_is_close_to_fp32(kind, x):
    model = peft_layer(kind, torch.bfloat16)
    assert len(fold_adapters(model)) == 1
    A, B = matrices(model)
    exact = formula(model, x.bfloat16())
    outputs = model.layer(x.bfloat16())
    assert outputs.dtype == torch.bfloat16
    assert (outputs.float() - exact).norm() < 2**-7 * exact.norm()
    exact_gradients = torch.autograd.grad(exact.pow(2).sum(), (A, B))
    outputs.float().pow(2).sum().backward()
    for matrix, gradient in zip((A, B), exact_gradients, strict=True):
        assert matrix.grad.dtype == torch.float32
        assert (matrix.grad - gradient).norm() < 2**-5 * gradient.norm()


@pytest.mark.parametrize("size", [1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("trains", [True, False])
def test_an_adapter_too_small_for_bf16_beside_its_weight_still_counts(size, trains):
    generator = torch.Generator().manual_seed(0)
    model = nn.ModuleDict({"layer": nn.Linear(64, 48, bias=False)})
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=["layer"]), model)
    layer = model["layer"]
    with torch.no_grad():
        layer.base_layer.weight.copy_(0.05 * torch.randn(48, 64, generator=generator))
        layer.lora_A["default"].weight.copy_(torch.randn(4, 64, generator=generator))
        layer.lora_B["default"].weight.copy_(size / 2 * torch.randn(48, 4, generator=generator))
    layer.base_layer.to(torch.bfloat16).requires_grad_(False)
    layer.requires_grad_(trains)
    layer.base_layer.requires_grad_(False)
    assert len(fold_adapters(model)) == 1
    inputs = torch.randn(100, 64, generator=generator).to(torch.bfloat16)
    A, B = layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()
    with torch.no_grad():
        outputs = layer(inputs)
        alone = layer.base_layer(inputs)
    # Rounded outputs hide an adapter that is far smaller than they are; its projection on them is what is left of it.
    adapter = inputs.double() @ A.T @ B.T
    share = ((outputs.double() - alone.double()) * adapter).sum() / adapter.square().sum()
    assert share.item() == pytest.approx(1, abs=0.05)
