"""What a strategy is told about the layers, against plain transformers models."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import AutoModelForSequenceClassification

from sklearn_irt import LayerSelection
from sklearn_irt.selection import LayerCost

SCALING = 2.0  # alpha / rank of the default adapter


class Asking(LayerSelection):
    """Train all candidates, and ask a question before the second step."""

    def __init__(self, question=None, at_step=0):
        self.question = question
        self.at_step = at_step

    def __sklearn_clone__(self):
        return self  # the test keeps it

    def select(self, step):
        if step == self.at_step:
            self.net = self.probe_._net
            self.before = copy.deepcopy(self.net.module_.state_dict())
            self.answer = self.question(self.probe_)
            self.after = copy.deepcopy(self.net.module_.state_dict())
            self.dataset = self.probe_._dataset
        return self.layers_


@pytest.fixture
def ask(make_classifier, revisions, tiny_llama):
    """Return a function that asks a question in a fit on 20 pairs, and gives the answer and a plain model."""

    def ask(question, at_step=0, **parameters):
        X, y = revisions
        asking = Asking(question, at_step)
        given = {"candidate_layers": [1, 3], "class_weight": None, "batch_size": 6, "max_length": 60, **parameters}
        make_classifier(selection=asking, **given).fit(X[:20], y[:20])
        plain = AutoModelForSequenceClassification.from_pretrained(
            tiny_llama, num_labels=len(set(y[:20])), attn_implementation="eager"
        ).eval()
        with torch.no_grad():
            plain.score.weight.copy_(asking.before["model.score.weight"])
        return asking, plain

    return ask


def losses_of(plain, asking):
    """Return the loss of each text, one by one."""
    ids, labels = asking.dataset.states.token_ids, asking.dataset.labels
    texts = asking.dataset.texts
    return [
        cross_entropy(plain(input_ids=torch.tensor([ids[text]])).logits, torch.tensor([label]))
        for text, label in zip(texts.tolist(), labels.tolist(), strict=True)
    ]


def gradients_of_weights(plain, loss, layer):
    names = [name for name, _ in plain.model.layers[layer].named_parameters() if "proj" in name]
    weights = [plain.model.layers[layer].get_parameter(name) for name in names]
    return dict(zip(names, torch.autograd.grad(loss, weights, retain_graph=True), strict=True))


def gradient_of_up_projections(plain, loss, layer, asking):
    """dL/dB = s dL/dW A^T, for y = (W + s B A) x and B = 0; then dL/dA is 0."""
    found = {}
    for name, gradient in gradients_of_weights(plain, loss, layer).items():
        module = name.removesuffix(".weight")
        A = asking.before[f"model.model.layers.{layer}.{module}.lora_A.default.weight"]
        found[f"{module}.lora_B.default.weight"] = SCALING * gradient @ A.T
    return found


def test_gradients_are_those_of_the_mean_loss(ask):
    asking, plain = ask(lambda probe: probe.gradients(100))
    loss = torch.stack(losses_of(plain, asking)).mean()
    assert list(asking.answer) == [1, 3]
    for layer in (1, 3):
        expected = gradient_of_up_projections(plain, loss, layer, asking)
        assert len(expected) == 7
        for name, gradient in asking.answer[layer].items():
            target = expected[name] if "lora_B" in name else torch.zeros(gradient.shape)
            # Prefix states are rounded to bf16.
            torch.testing.assert_close(
                torch.from_numpy(gradient), target, rtol=0, atol=1e-2 * float(target.abs().max())
            )


def test_squared_gradients_are_the_diagonal_fisher_information_of_single_texts(ask):
    asking, plain = ask(lambda probe: probe.squared_gradients(100), class_weight="balanced")
    n_parameters = sum(p.numel() for p in asking.net.module_.layer_parameters[1])
    squares = [
        [
            sum(float(g.square().sum()) for g in gradient_of_up_projections(plain, loss, layer, asking).values())
            for layer in (1, 3)
        ]
        for loss in losses_of(plain, asking)
    ]
    np.testing.assert_allclose(asking.answer, np.mean(squares, axis=0) / n_parameters, rtol=1e-3)


def test_the_first_step_of_adamw_saves_the_sum_of_absolute_gradients(ask):
    asking, plain = ask(lambda probe: probe.savings(100))
    loss = torch.stack(losses_of(plain, asking)).mean()
    expected = [
        sum(
            float((g * g / (g.abs() + 1e-8)).sum())
            for g in gradient_of_up_projections(plain, loss, layer, asking).values()
        )
        for layer in (1, 3)
    ]
    np.testing.assert_allclose(asking.answer, expected, rtol=1e-3)


def test_a_later_saving_is_what_the_optimizer_would_step(ask):
    """Against torch's own AdamW, on copies of the parameters and of its state."""

    def question(probe):
        net = probe._net
        savings = probe.savings(100)
        with probe._all_training():
            probe._backward(probe._batch(range(20)))
            parameters = net.module_.layer_parameters[3]
            copies = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
            optimizer = torch.optim.AdamW(copies, lr=1.0, weight_decay=0.0)
            for own, p in zip(copies, parameters, strict=True):
                own.grad = p.grad.clone()
                optimizer.state[own] = copy.deepcopy(net.optimizer_.state[p])
            optimizer.step()
            return savings, [sum(float((p.grad * (p - own)).sum()) for own, p in zip(copies, parameters, strict=True))]

    asking, _ = ask(question, at_step=3)
    (_, saving), (expected,) = asking.answer
    np.testing.assert_allclose(saving, expected, rtol=1e-4)


def test_similarities_are_the_mean_cosine_over_all_tokens(ask):
    """Of the last layer too, of which training computes the one position that the head reads."""
    asking, plain = ask(lambda probe: probe.similarities(100))
    cosines = {1: [], 3: []}
    plain.model.norm = torch.nn.Identity()  # the last hidden state is that which leaves the last layer
    for text in asking.dataset.texts:
        with torch.no_grad():
            ids = torch.tensor([asking.dataset.states.token_ids[text]])
            states = plain(input_ids=ids, output_hidden_states=True).hidden_states
        for layer in (1, 3):
            cosines[layer].append(cosine_similarity(states[layer][0], states[layer + 1][0], dim=-1))
    np.testing.assert_allclose(asking.answer, [torch.cat(cosines[layer]).mean() for layer in (1, 3)], atol=1e-3)


def test_weight_norms_are_those_of_the_output_projections(ask):
    asking, plain = ask(lambda probe: probe.weight_norms(), at_step=2)
    expected = [plain.model.layers[layer].self_attn.o_proj.weight.norm().item() for layer in (1, 3)]
    np.testing.assert_allclose(asking.answer, expected, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_output_projections_of_other_families(make_classifier, revisions, backbones, family):
    X, y = revisions
    asking = Asking(lambda probe: probe.weight_norms())
    make_classifier(backbone=backbones[family], selection=asking, candidate_layers=2).fit(X[:12], y[:12])
    plain = AutoModelForSequenceClassification.from_pretrained(backbones[family])
    layers = plain.transformer.h if family == "gpt2" else plain.bert.encoder.layer
    projections = [layer.attn.c_proj if family == "gpt2" else layer.attention.output.dense for layer in layers[2:]]
    np.testing.assert_allclose(asking.answer, [p.weight.norm().item() for p in projections], rtol=1e-5)


def test_a_suppressed_adapter_has_a_part_of_its_output(ask):
    """Against the plain model with W + factor * s B A in the suppressed layers."""
    asking, plain = ask(lambda probe: probe.losses([[1], [3], [1, 3], []], 0.25, 100), at_step=3, learning_rate=0.05)
    expected = []
    for suppressed in ([1], [3], [1, 3], []):
        model = copy.deepcopy(plain)
        for name, A in asking.before.items():
            if "lora_A" in name:
                B = asking.before[name.replace("lora_A", "lora_B")]
                layer = int(name.split(".")[3])
                module = model.get_submodule(name.removeprefix("model.").removesuffix(".lora_A.default.weight"))
                with torch.no_grad():
                    module.weight += (0.25 if layer in suppressed else 1.0) * SCALING * B @ A
        with torch.no_grad():
            expected.append(torch.stack(losses_of(model, asking)).mean().item())
    np.testing.assert_allclose(asking.answer, expected, rtol=1e-4)
    assert len(set(np.round(expected, 4))) == 4


def test_costs_count_the_weights_of_all_layers_that_run(ask):
    asking, plain = ask(lambda probe: probe.costs())
    weights = sum(p.numel() for name, p in plain.model.layers[0].named_parameters() if "proj" in name)
    adapters = sum(p.numel() for p in asking.net.module_.layer_parameters[3])
    trained, frozen = LayerCost(weights + adapters, adapters), LayerCost(weights, 0)
    assert asking.answer == [frozen, trained, frozen, trained]


def test_tensors_are_named_with_the_module_that_they_adapt(ask):
    asking, _ = ask(lambda probe: probe.tensors())
    assert list(asking.answer) == [1, 3]
    assert asking.answer[3]["self_attn.q_proj.lora_A.default.weight"] == "self_attn.q_proj"
    assert asking.answer[3]["mlp.down_proj.lora_B.default.weight"] == "mlp.down_proj"
    assert len(asking.answer[3]) == 14


def test_a_trial_trains_the_named_layers_and_the_head_and_puts_everything_back(ask):
    seen = {}

    def question(probe):
        judge = probe._judge

        def look(rows):
            seen["trained"] = copy.deepcopy(probe._net.module_.state_dict())
            seen["rows"] = rows
            return judge(rows)

        probe._judge = look
        return [probe.score_after_training([3], 2, 0.25), probe.score_after_training([3], 2, 0.25)]

    asking, _ = ask(question, at_step=1, learning_rate=0.05)
    changed = {name for name, t in seen["trained"].items() if not torch.equal(t, asking.before[name])}
    assert {name.split(".layers.")[-1][:2] for name in changed - {"model.score.weight"}} == {"3."}
    assert "model.score.weight" in changed
    assert len(seen["rows"]) == 5
    (accuracy, negative_loss), again = asking.answer
    assert (accuracy, negative_loss) == again
    assert accuracy in {n / 5 for n in range(6)}
    assert negative_loss < 0


QUESTIONS = {
    "gradients": lambda probe: probe.gradients(5),
    "squared_gradients": lambda probe: probe.squared_gradients(5),
    "savings": lambda probe: probe.savings(5),
    "similarities": lambda probe: probe.similarities(5),
    "losses": lambda probe: probe.losses([[1]], 0.25, 5),
    "score_after_training": lambda probe: probe.score_after_training([1], 2, 0.25),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_changes_nothing_that_trains(ask, make_classifier, revisions, name):
    def question(probe):
        random_state = probe._random_state.get_state()
        QUESTIONS[name](probe)
        probe._random_state.set_state(random_state)
        return [p.requires_grad for p in probe._net.module_.learned_parameters.values()], [
            p.grad for p in probe._net.module_.learned_parameters.values()
        ]

    asking, _ = ask(question, at_step=2)
    assert all(torch.equal(tensor, asking.after[key]) for key, tensor in asking.before.items())
    silent, _ = ask(lambda probe: None, at_step=2)
    weights, expected = asking.net.module_.state_dict(), silent.net.module_.state_dict()
    assert all(torch.equal(weights[key], tensor) for key, tensor in expected.items())


def test_the_part_that_early_stopping_holds_out_is_not_asked(ask):
    asking, _ = ask(lambda probe: None, early_stopping=True, validation_fraction=0.3, max_length=192)
    assert len(asking.dataset) == 14


def test_texts_of_a_single_member_class_cannot_be_held_out(make_classifier, revisions):
    X, y = revisions
    y = y[:20].copy()
    y.iloc[0] = "alone"
    with pytest.raises(ValueError, match=r"The share 0.2 of 20 training texts cannot be held out by class"):
        make_classifier(selection="subtuning", candidate_layers=1).fit(X[:20], y)
