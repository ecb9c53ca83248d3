"""Models of one number agree with transformers' own; a padding token is added and never sampled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import tiny_llama
from transformers import AutoModelForSequenceClassification

from cameleer.batch import Batch
from cameleer.errors import ModelError
from cameleer.log import quiet_libraries
from cameleer.models.heads import (
    add_pad_token,
    fit_to_tokenizer,
    forward_scores,
    forward_values,
    load_scorer,
)
from cameleer.models.load import check_same_tokens, load_model, load_tokenizer
from cameleer.models.logprobs import forward_logprobs
from cameleer.rollout.engine import Request, Sampling
from cameleer.rollout.torch_engine import TorchEngine

LENGTHS = (5, 9, 3)


def scorer(source: Path, **options: Any) -> Any:
    with quiet_libraries():
        return load_scorer(str(source), "float32", "cpu", **{"seed": 0, **options})


def packed() -> Batch:
    """Three sequences; the last token of the second is a template's, behind the answer's end."""
    generator = torch.Generator().manual_seed(1)
    mask = [[i >= 2 for i in range(n)] for n in LENGTHS]
    mask[1][-1] = False
    return Batch(
        tokens_N=torch.randint(6, 20, (sum(LENGTHS),), generator=generator),
        lengths_B=torch.tensor(LENGTHS),
        mask_N=torch.tensor([m for row in mask for m in row]),
    )


def test_a_sequences_score_is_the_one_that_transformers_gives_its_padded_row(
    tiny: Path, tmp_path: Path
):
    ours, batch = scorer(tiny), packed()
    fit_to_tokenizer(ours, load_tokenizer(str(tiny)))
    ours.save_pretrained(tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, attn_implementation="eager"
    )
    rows = list(batch.tokens_N.split(LENGTHS))
    rows[1] = rows[1][:-1]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
    assert theirs.config.pad_token_id == 0
    with torch.no_grad():
        expected = theirs(padded, attention_mask=(padded != 0).long()).logits.squeeze(1)
    torch.testing.assert_close(forward_scores(ours, batch), expected, atol=1e-5, rtol=0)


def test_a_tokens_value_is_read_where_it_is_predicted(tiny: Path):
    model, batch = scorer(tiny), packed()
    values_N = forward_values(model, batch)
    assert (values_N[~batch.mask_N] == 0).all()
    for row, values, mask in zip(
        *(x.split(LENGTHS) for x in (batch.tokens_N, values_N, batch.mask_N)), strict=True
    ):
        for place in mask.nonzero().flatten().tolist():
            # The score of the tokens before it alone.
            before = Batch(
                tokens_N=row[:place],
                lengths_B=torch.tensor([place]),
                mask_N=torch.ones(place, dtype=torch.bool),
            )
            torch.testing.assert_close(
                values[place], forward_scores(model, before)[0], atol=1e-5, rtol=0
            )


def test_a_new_head_is_drawn_by_the_seed_as_wide_as_tulus(tmp_path: Path):
    source = tiny_llama(tmp_path / "llama")
    one, same, other = (scorer(source, seed=seed).score.weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    # 32 numbers of standard deviation 1 / sqrt(33) = 0.174.
    assert 0.1 < float(one.detach().std()) < 0.27


def test_a_language_model_is_no_reward_model(tiny: Path):
    with pytest.raises(ModelError, match=r"is no reward model: its weights have no score\.weight"):
        scorer(tiny, seed=None)


def test_another_vocabulary_is_refused_and_another_padding_is_not(tiny: Path, tmp_path: Path):
    ours, theirs = load_tokenizer(str(tiny)), load_tokenizer(str(tiny))
    theirs.add_special_tokens({"pad_token": "<other>"})
    check_same_tokens(ours, theirs, "there", "value model")
    ours.add_tokens(["word"])
    with pytest.raises(ModelError, match=r"The value model there reads .* 'word' is \d+ .* None"):
        check_same_tokens(ours, theirs, "there", "value model")


def without_pad(directory: Path) -> Path:
    """A base model as many are published: its tokenizer names no padding token."""
    source = tiny_llama(directory)
    config = source / "tokenizer_config.json"
    fields = json.loads(config.read_text())
    del fields["pad_token"]
    config.write_text(json.dumps(fields))
    return source


def test_pad_is_added_with_rows_to_a_multiple_of_8_that_are_the_mean_of_the_old(tmp_path: Path):
    source = without_pad(tmp_path / "llama")
    with quiet_libraries():
        tokenizer, model = load_tokenizer(str(source)), load_model(str(source), "float32", "cpu")
    rows = len(tokenizer)
    before = model.get_input_embeddings().weight.detach().clone()
    add_pad_token(tokenizer)
    # The tiny vocabulary has a word of this name; a published one gets a new id.
    assert tokenizer.pad_token == "<pad>" and tokenizer.pad_token_id == 0
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    fit_to_tokenizer(model, tokenizer)
    after = model.get_input_embeddings().weight.detach()
    assert rows == 79 and len(after) == 80 and tokenizer.pad_token_id == 79
    assert torch.equal(after[:79], before)
    torch.testing.assert_close(after[79:], before.mean(0).expand(1, -1))
    assert model.config.vocab_size == 80 and model.config.pad_token_id == 79


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_pad_is_never_sampled_and_has_no_probability(tmp_path: Path, temperature: float):
    source = tiny_llama(tmp_path / "llama")
    with quiet_libraries():
        tokenizer, model = load_tokenizer(str(source)), load_model(str(source), "float32", "cpu")
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    fit_to_tokenizer(model, tokenizer)
    with torch.no_grad():
        # Were the rows of padding not left out, they would be all that is ever sampled.
        model.get_output_embeddings().weight[79:] = 1e3
    engine = TorchEngine(model, tokenizer, num_slots=4)
    requests = [Request("p", (4, 10, 5), sample) for sample in range(8)]
    answers = engine.generate(
        requests, Sampling(max_tokens=16, temperature=temperature), seed=0, step=0
    )
    sampled = [t for answer in answers for t in answer.tokens]
    assert max(sampled) < 79
    answer = answers[0]
    batch = Batch(
        tokens_N=torch.tensor([4, 10, 5, *answer.tokens]),
        lengths_B=torch.tensor([3 + len(answer.tokens)]),
        mask_N=torch.tensor([False] * 3 + [True] * len(answer.tokens)),
    )
    learner = forward_logprobs(model, batch, 1.0).logprobs_N[3:]
    if temperature:
        torch.testing.assert_close(learner, torch.tensor(answer.logprobs), atol=1e-4, rtol=0)
    assert (learner > -20).all()


def test_a_padding_token_that_is_the_end_of_sequence_is_kept_for_policies_only(tiny: Path):
    tokenizer = load_tokenizer(str(tiny))
    tokenizer.pad_token = tokenizer.eos_token
    add_pad_token(tokenizer)
    assert tokenizer.pad_token == tokenizer.eos_token
    add_pad_token(tokenizer, apart_from_eos=True)
    assert tokenizer.pad_token == "<pad>" != tokenizer.eos_token
