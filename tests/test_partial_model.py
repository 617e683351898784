"""Running a part of a model gives what the whole model gives, in families that write their layers in different ways."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModel,
    BloomConfig,
    DebertaV2Config,
    FalconConfig,
    Gemma2Config,
    GPTNeoXConfig,
    MistralConfig,
    MPNetConfig,
    Phi3Config,
    Qwen3Config,
)

from sklearn_irt.adapters import adapter_config, attach_adapters
from sklearn_irt.backbone import load_backbone, load_tokenizer
from sklearn_irt.head import replace_head
from sklearn_irt.layer_by_layer import _Recorder
from sklearn_irt.partial_model import run_up_to, share_weights
from sklearn_irt.prefix import compute_prefix_states
from sklearn_irt.randomness import isolated_seed
from sklearn_irt.states_store import StatesInMemory
from sklearn_irt.trained_part import TrainedPart

TOKEN_IDS = [[7, 8, 9, 10, 11, 12], [20, 21, 22], list(range(30, 60)), [5]]
SIZE = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "intermediate_size": 48,
    "vocab_size": 600,
    "max_position_embeddings": 256,
}
GROUPED = {**SIZE, "num_key_value_heads": 1}
OTHERS = {
    "qwen3": Qwen3Config(**GROUPED, head_dim=16),
    "gemma2": Gemma2Config(**GROUPED, head_dim=16, query_pre_attn_scalar=16, pad_token_id=1),
    "mistral": MistralConfig(**GROUPED, sliding_window=4),
    "phi3": Phi3Config(**GROUPED, pad_token_id=1),
    "gpt_neox": GPTNeoXConfig(**SIZE),
}
# Their layers return tuples.
OF_TUPLES = {
    "falcon": FalconConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=4, vocab_size=600, pad_token_id=1),
    "bloom": BloomConfig(hidden_size=32, n_head=2, n_layer=4, vocab_size=600, pad_token_id=1),
    "mpnet": MPNetConfig(**SIZE),
    "deberta": DebertaV2Config(**SIZE, relative_attention=True, pos_att_type=["p2c", "c2p"]),
}
ONE_BY_ONE = ["llama", "gpt2", "bert", *OTHERS]
FAMILIES = [*ONE_BY_ONE, *OF_TUPLES]


@pytest.fixture(scope="module")
def load(backbones, tmp_path_factory):
    """Return a function that loads the tiny backbone of a family."""

    def load_family(family):
        folder = backbones.get(family)
        if folder is None:
            folder = tmp_path_factory.getbasetemp() / "other_backbones" / family
            if not folder.exists():
                _save(folder, {**OTHERS, **OF_TUPLES}[family], load_tokenizer(backbones["llama"]))
        return load_backbone(folder, precision="fp32", device=torch.device("cpu"))

    return load_family


def _save(folder, config, tokenizer):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(autouse=True)
def _exact_states(monkeypatch):
    monkeypatch.setattr("sklearn_irt.prefix.STORED_DTYPE", torch.float32)


def part_of(backbone, layers=(1, 2, 3)):
    """Return a trained part whose adapters change something, with everything that it learns learning."""
    part = TrainedPart(backbone, layers, adapter_config("lora"), n_classes=3, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in part.learned_parameters.items():
        parameter.requires_grad_(True)
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    return part


def inputs_of(backbone, first_layer):
    states = compute_prefix_states(backbone, TOKEN_IDS, first_layer, StatesInMemory(2**20)).states
    ids = [torch.tensor(ids) for ids in TOKEN_IDS]
    return {
        "states": pad_sequence(states, batch_first=True),
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=backbone.tokenizer.pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
    }


def whole_model_of(part):
    """Return the whole transformers model, with peft's own layers, and the part's adapters and head."""
    model = share_weights(part.backbone.model)
    with isolated_seed(0, torch.device("cpu")):
        replace_head(model, 3, part.backbone.drawn)
    attach_adapters(model, part.backbone.stack, part.layers, adapter_config("lora"))
    learned = {name.removeprefix("model."): tensor.clone() for name, tensor in part.state_dict().items()}
    assert not model.load_state_dict(learned, strict=False).unexpected_keys
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learned)
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_the_whole_model(load, family):
    part = part_of(load(family))
    whole = whole_model_of(part)
    weights = torch.tensor([[1.0, -2.0, 3.0], [2.0, 1.0, -1.0], [-3.0, 0.5, 1.0], [1.0, 1.0, -2.0]])
    logits = part(**inputs_of(part.backbone, 1))
    expected = torch.cat([whole(torch.tensor([ids])).logits for ids in TOKEN_IDS])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = {
        name.removeprefix("model."): p.grad for name, p in part.learned_parameters.items() if p.grad is not None
    }
    whole_gradients = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    assert gradients.keys() == whole_gradients.keys()
    assert {name.split("lora_")[1][0] for name in gradients if "lora_" in name} == {"A", "B"}
    for name, gradient in gradients.items():
        largest = whole_gradients[name].abs().max().item()
        torch.testing.assert_close(gradient, whole_gradients[name], rtol=1e-3, atol=1e-4 * largest, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_a_middle_layer_are_those_of_the_whole_model(load, family):
    part = part_of(load(family))
    whole = whole_model_of(part)
    with torch.no_grad():
        (advanced,) = part.advance(3, [inputs_of(part.backbone, 1)])
        for ids, states in zip(TOKEN_IDS, advanced, strict=True):
            expected = whole(torch.tensor([ids]), output_hidden_states=True).hidden_states[3][0]
            torch.testing.assert_close(states[: len(ids)], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_part_that_starts_higher_computes_the_same(load, family):
    part = part_of(load(family))
    inputs = inputs_of(part.backbone, 1)
    with torch.no_grad():
        before = part(**inputs)
        advanced = {**inputs, "states": part.advance(3, [inputs])[0]}
        part.start_from(3)
        torch.testing.assert_close(part(**advanced), before, rtol=1e-4, atol=1e-4)
        part.start_from(part.first_layer)
        assert torch.equal(part(**inputs), before)


def count_positions(module):
    """Return a list that gets the number of positions, over all texts, of each call of a module."""
    counted = []
    module.register_forward_hook(lambda module, args, output: counted.append(output.shape[:-1].numel()))
    return counted


@pytest.mark.parametrize(
    ("family", "feed_forward", "first", "positions"),
    [
        ("llama", "mlp", "self_attn.v_proj", 4),
        ("mistral", "mlp", "self_attn.v_proj", 4),
        ("qwen3", "mlp", "self_attn.v_proj", 4),
        ("phi3", "mlp", "self_attn.qkv_proj", 4),
        ("gpt2", "mlp", "attn.c_attn", 4),
        ("bert", "intermediate", "attention.self.value", 4 * 30),
    ],
)
def test_the_last_layer_of_a_decoder_goes_on_with_one_position_a_text(load, family, feed_forward, first, positions):
    part = part_of(load(family))
    last, below = part.stack[3], part.stack[2]
    counts = [count_positions(layer.get_submodule(name)) for layer in (last, below) for name in (feed_forward, first)]
    part(**inputs_of(part.backbone, 1))
    assert counts == [[positions], [4 * 30], [4 * 30], [4 * 30]]


def test_where_the_head_reads_all_positions_nothing_is_left_out(load):
    """BERT's pooler reads the first position, so a change of the last one still has to reach it."""
    backbone = load("bert")
    part = part_of(backbone)
    inputs = inputs_of(backbone, 1)
    with torch.no_grad():
        before = part(**inputs)
        inputs["states"][0, 5] += 1
        after = part(**inputs)
    assert not torch.allclose(before[0], after[0])
    assert torch.allclose(before[1:], after[1:])


def test_a_copy_shares_tensors_but_no_modules(load):
    model = load("llama").model
    copy = share_weights(model)
    assert {t.data_ptr() for t in copy.parameters()} == {t.data_ptr() for t in model.parameters()}
    assert not {id(module) for module in copy.modules()} & {id(module) for module in model.modules()}


def test_a_model_that_does_not_reach_the_layer_says_so(load):
    model = share_weights(load("llama").model)
    unused = share_weights(model).model.layers[2]
    with pytest.raises(ValueError, match="did not run its layers one after the other"):
        run_up_to(unused, model, input_ids=torch.tensor([[5, 6]]))


def test_a_layer_runs_again_after_a_model_was_run_up_to_it(load):
    model = share_weights(load("llama").model)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = model.model(ids).last_hidden_state
        states = run_up_to(model.model.layers[2], model, input_ids=ids)
        assert torch.equal(model.model(ids).last_hidden_state, before)
        assert torch.equal(states, model.model(ids, output_hidden_states=True).hidden_states[2])


@pytest.mark.parametrize("family", ONE_BY_ONE)
def test_several_batches_run_layer_by_layer_and_give_what_each_gives_alone(load, family, monkeypatch):
    recorded = []
    record = _Recorder.record

    def spy(self, run):
        recorded.append(record(self, run))
        return recorded[-1]

    monkeypatch.setattr(_Recorder, "record", spy)
    part = part_of(load(family))
    whole = inputs_of(part.backbone, 1)
    batches = [whole, {name: tensor[1:3] for name, tensor in whole.items()}]
    recorded.clear()
    with torch.no_grad():
        alone = [part(**batch) for batch in batches]
        together = part.classify(batches)
        assert [recorder.passed_on for recorder in recorded] == [True, True]
        for mine, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(part(**whole), alone[0], rtol=0, atol=0)


def test_an_interrupted_prediction_leaves_the_model_as_it_was(load, monkeypatch):
    part = part_of(load("llama"))
    inputs = inputs_of(part.backbone, 1)
    with torch.no_grad():
        before = part(**inputs)
        for place in ("_run_up_to", "forward"):
            with monkeypatch.context() as patch:
                patch.setattr(part, place, raise_keyboard_interrupt)
                with pytest.raises(KeyboardInterrupt):
                    part.classify([inputs, inputs])
            torch.testing.assert_close(part(**inputs), before, rtol=0, atol=0)


def raise_keyboard_interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_a_model_whose_layers_give_more_than_states_predicts_batch_by_batch(backbones, tmp_path):
    config = DebertaV2Config(**SIZE, relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0)
    _save(tmp_path / "deberta", config, load_tokenizer(backbones["llama"]))
    backbone = load_backbone(tmp_path / "deberta", precision="fp32", device=torch.device("cpu"))
    part = part_of(backbone, layers=(0, 1, 2, 3))
    whole = inputs_of(backbone, 0)
    batches = [whole, {name: tensor[1:3] for name, tensor in whole.items()}]
    with torch.no_grad():
        alone = [part(**batch) for batch in batches]
        for mine, expected in zip(part.classify(batches), alone, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)
