"""An adapter changes nothing until it is trained, and is the model's own weights once merged."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from random_models import CONFIGS, random_model
from slow_twin import assert_same, engine_of
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
)

from cameleer.batch import Batch
from cameleer.errors import ModelError
from cameleer.log import quiet_libraries
from cameleer.models import attention
from cameleer.models.heads import forward_scores, load_scorer
from cameleer.models.load import load_model, weights_hash
from cameleer.models.logprobs import forward_logprobs
from cameleer.models.lora import (
    add_adapter,
    load_adapter,
    merged,
    save_adapter,
    without_adapter,
)
from cameleer.rollout import steps, torch_engine
from cameleer.rollout.engine import Request, Sampling
from cameleer.train.optimizer import MasterAdamW

LENGTHS = (5, 17, 2, 9)


def adapted(model: Any, **changes: Any) -> Any:
    options = {"rank": 4, "alpha": 8.0, "targets": "all-linear", "rslora": False, "seed": 0}
    add_adapter(model, **{**options, **changes})
    return model


@torch.no_grad()
def trained(model: Any, size: float = 0.1) -> Any:
    """As if after many updates: every trained number is another."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return model


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        tokens_N=torch.randint(2, 61, (sum(LENGTHS),), generator=generator),
        lengths_B=torch.tensor(LENGTHS),
        mask_N=torch.cat([torch.arange(n) > 0 for n in LENGTHS]),
    )


def logprobs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return forward_logprobs(model, batch(), 0.7).logprobs_N


def names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_new_adapter_changes_no_bit(kind: str, dtype: torch.dtype):
    before = logprobs(random_model(kind).to(dtype))
    assert torch.equal(logprobs(adapted(random_model(kind).to(dtype))), before)


@pytest.mark.parametrize("kind", CONFIGS)
def test_without_its_adapter_a_trained_model_is_the_one_it_was(kind: str):
    base = random_model(kind)
    model = trained(adapted(random_model(kind)))
    assert not torch.allclose(logprobs(model), logprobs(base), atol=0.01)
    with without_adapter(model):
        assert names(model) == names(base)
        assert weights_hash(model) == weights_hash(base)
        assert torch.equal(logprobs(model), logprobs(base))
    assert any("lora_A" in name for name in names(model))


@pytest.mark.parametrize("kind", CONFIGS)
def test_merged_weights_compute_what_the_adapter_does(kind: str):
    model = trained(adapted(random_model(kind)))
    expected, state = logprobs(model), {k: v.clone() for k, v in model.state_dict().items()}
    addresses = [p.data_ptr() for p in model.parameters()]
    with merged(model):
        assert names(model) == names(random_model(kind))
        torch.testing.assert_close(logprobs(model), expected, atol=1e-4, rtol=0)
    # And leave no trace in it.
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert addresses == [p.data_ptr() for p in model.parameters()]
    assert torch.equal(logprobs(model), expected)


def test_a_merged_bfloat16_weight_is_rounded_once():
    # W + BA = 1 + 2^-8 + 2^-20, a little more than half way from 1 to bfloat16's next, 1 + 2^-7.
    # Were BA rounded first, to 2^-8, it would be half way, and fall to 1.
    model = adapted(random_model().to(torch.bfloat16), rank=2, alpha=2.0)
    layer = model.model.layers[0].self_attn.q_proj
    with torch.no_grad():
        layer.base_layer.weight.fill_(1)
        layer.lora_A["default"].weight.fill_(1)
        layer.lora_B["default"].weight.copy_(torch.tensor([2**-8, 2**-20]))
    with merged(model):
        assert (model.model.layers[0].self_attn.q_proj.weight == 1 + 2**-7).all()


def test_an_error_in_between_leaves_the_adapter_in_place():
    model = trained(adapted(random_model()))
    expected = logprobs(model)
    for context in (without_adapter, merged):
        with pytest.raises(ZeroDivisionError), context(model):
            raise ZeroDivisionError
    assert torch.equal(logprobs(model), expected)


def test_a_models_adapter_is_a_function_of_its_seed_alone():
    models = [random_model() for _ in range(3)]
    before = torch.get_rng_state()
    one, two, other = (
        adapted(model, seed=seed).state_dict()
        for model, seed in zip(models, (3, 3, 4), strict=True)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    drawn = [name for name in one if "lora_A" in name]
    assert len(drawn) == 14 and not any(torch.equal(one[name], other[name]) for name in drawn)
    widest = max(float(one[name].abs().max()) * one[name].shape[1] ** 0.5 for name in drawn)
    assert 0.95 < widest <= 1


@pytest.mark.parametrize(("rslora", "scale"), [(False, 2.0), (True, 4.0)])
def test_the_first_gradient_is_the_full_ones_share(rslora: bool, scale: float):
    # W + s B A at B = 0: dL/dB = s dL/dW A^T, and dL/dA = s B^T dL/dW = 0. s is 8 / 4 or 8 / 2.
    whole, model = random_model(), adapted(random_model(), rslora=rslora)
    for each in (whole, model):
        forward_logprobs(each, batch(), 0.7).logprobs_N.sum().backward()
    full = {name: p.grad for name, p in whole.named_parameters()}
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            place = name.replace(".lora_B.default.weight", "")
            drawn = model.get_submodule(place).lora_A["default"].weight.detach()
            expected = scale * full[f"{place}.weight"] @ drawn.T
            torch.testing.assert_close(parameter.grad, expected, atol=1e-3, rtol=1e-4)
        elif "lora_A" in name:
            assert (parameter.grad == 0).all()
        else:
            assert parameter.grad is None, name


def test_masters_of_a_bfloat16_adapter_are_float32_and_nothing_else_has_one():
    model = adapted(random_model().to(torch.bfloat16))
    optimizer = MasterAdamW(
        model, lr=1e-6, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, warmup_steps=0
    )
    assert len(optimizer.masters) == 28
    assert all(master.dtype == torch.float32 for master in optimizer.masters)
    before = [master.clone() for master in optimizer.masters]
    for _ in range(2):
        forward_logprobs(model, batch(), 1.0).logprobs_N.sum().backward()
        optimizer.step(0)
    # A step far below what bfloat16 can add to A, which has a gradient from the second on.
    assert all(not torch.equal(a, b) for a, b in zip(before, optimizer.masters, strict=True))


def test_a_score_is_trained_as_a_whole(tiny: Path):
    with quiet_libraries():
        model = adapted(load_scorer(str(tiny), "float32", "cpu", seed=0))
    whole = [n for n, p in model.named_parameters() if p.requires_grad and "lora" not in n]
    assert whole == ["score.weight"]


@pytest.mark.parametrize("scores", [False, True])
def test_peft_loads_the_adapter_onto_the_model_it_started_from(
    tiny: Path, tmp_path: Path, scores: bool
):
    options: dict[str, Any] = {"seed": 0} if scores else {}
    with quiet_libraries():
        model = (load_scorer if scores else load_model)(str(tiny), "float32", "cpu", **options)
    trained(adapted(model, rslora=True))
    save_adapter(model, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["modules_to_save"] == (["score"] if scores else None)
    assert (config["r"], config["use_rslora"], config["inference_mode"]) == (4, True, True)
    kind = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    more = {"num_labels": 1} if scores else {}
    with quiet_libraries():
        base = kind.from_pretrained(tiny, attn_implementation="eager", **more)
        theirs: Any = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    tokens = torch.tensor([[2, 5, 7, 3, 9]])
    with torch.no_grad():
        found = theirs(tokens).logits
        if scores:
            row = Batch(
                tokens_N=tokens[0], lengths_B=torch.tensor([5]), mask_N=torch.arange(5) == 4
            )
            torch.testing.assert_close(found[0], forward_scores(model, row), atol=1e-4, rtol=0)
            return
        model.set_attn_implementation("eager")
        torch.testing.assert_close(found, model(tokens).logits, atol=1e-4, rtol=0)


def test_an_adapter_comes_back_as_it_was_saved(tmp_path: Path):
    model, other = trained(adapted(random_model())), adapted(random_model(), seed=5)
    save_adapter(model, tmp_path)
    load_adapter(other, tmp_path)
    assert torch.equal(logprobs(other), logprobs(model))


def test_the_hash_of_a_policy_is_another_once_its_adapter_is():
    model = adapted(random_model())
    before = weights_hash(model)
    assert weights_hash(trained(model)) != before


# The engine


def answers(model: nn.Module) -> list[Any]:
    rng = random.Random(0)
    requests = [
        Request(f"p:{n}", tuple(rng.randrange(2, 61) for _ in range(1 + n % 7))) for n in range(20)
    ]
    engine = engine_of(model, num_slots=6)
    return engine.generate(requests, Sampling(max_tokens=12), seed=1, step=2)


@pytest.mark.skipif(not hasattr(torch.ops.mkl, "_mkl_linear"), reason="this torch has no MKL")
@pytest.mark.parametrize("packs", [False, True])
def test_the_engine_samples_through_the_adapter(packs: bool, monkeypatch: pytest.MonkeyPatch):
    model = trained(adapted(random_model()))
    packed: list[int] = []
    if packs:
        pack = steps._packed
        monkeypatch.setattr(steps, "_WORTH_PACKING", 0)
        monkeypatch.setattr(torch_engine, "_WORTH_PACKING", 0)
        monkeypatch.setattr(torch_engine, "_FEWEST_ROWS", 6)
        monkeypatch.setattr(steps, "_packed", lambda w, b, n: packed.append(n) or pack(w, b, n))
    found = answers(model)
    # Seven layers in each of two blocks, without their factors, and the output head.
    assert len(packed) == (2 * 7 + 1 if packs else 0)
    with merged(model):
        expected = answers(model)
    for one, two in zip(found, expected, strict=True):
        assert_same(one, two)
    with without_adapter(model):
        assert [c.tokens for c in answers(model)] != [c.tokens for c in found]


# What is refused


def test_a_target_that_names_no_layer_comes_with_the_nearest():
    with pytest.raises(ModelError) as error:
        adapted(random_model(), targets=("q_proj", "v_porj"))
    assert str(error.value) == (
        "lora.targets names 'v_porj', and no linear layer of the LlamaForCausalLM is called that. "
        "Did you mean 'v_proj'? It has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, "
        "v_proj."
    )
    # The output head's rows are read by our own function, past an adapter.
    with pytest.raises(ModelError, match="names 'lm_head', and no linear layer"):
        adapted(random_model(), targets=("lm_head",))
    with pytest.raises(ModelError, match="names 'proj', and no linear layer"):
        adapted(random_model(), targets=("proj",))


def test_named_layers_alone_are_adapted():
    model = adapted(random_model(), targets=("q_proj", "layers.1.mlp.up_proj"))
    found = [n.replace(".lora_A.default.weight", "") for n in names(model) if "lora_A" in n]
    assert found == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    ]


def test_experts_in_one_weight_are_not_passed_over_silently():
    config = MixtralConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    with torch.device("meta"):
        model = MixtralForCausalLM(config)
    with pytest.raises(ModelError, match="'all-linear' would leave its experts"):
        adapted(model)
    assert any("lora_A" in name for name in names(adapted(model, targets=("q_proj", "v_proj"))))


def test_a_model_without_linear_layers_is_refused():
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2))
    with pytest.raises(ModelError, match="GPT2LMHeadModel has no linear layers of torch's"):
        adapted(model)


def test_what_peft_refuses_is_told(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise ValueError("Target module Odd() is not supported.")

    monkeypatch.setattr(peft, "inject_adapter_in_model", refuse)
    with pytest.raises(ModelError, match=r"cannot adapt the layers q_proj .* Odd\(\) is not"):
        adapted(random_model(), targets=("q_proj",))


def test_without_peft_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ModelError, match=r"pip install 'cameleer\[lora\]'"):
        adapted(random_model())


def test_the_models_attention_stays_ours():
    model = adapted(random_model())
    assert model.config._attn_implementation == attention.NAME
