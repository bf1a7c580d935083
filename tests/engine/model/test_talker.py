"""The talker and the code predictor: a batch is nothing but its rows, a step nothing but a longer prompt."""

from __future__ import annotations

import pytest
import torch

from engine.checkpoint.load import LoadOptions, load
from engine.model.talker import BatchRows
from tests.engine.support.greedy_decoding import prefill
from tests.engine.support.tiny_models import tiny_directory, tiny_model

LENGTH = 64


def rows(slots: list[int], starts: list[int], length: int = LENGTH) -> BatchRows:
    return BatchRows(torch.tensor(slots), torch.tensor(starts), length)


def prompts(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randn(length, 64, generator=generator) for length in lengths]


def padded(parts: list[torch.Tensor], fill: float = 0.0) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill)


def single(prompt: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and logits of one prompt in a fresh cache."""
    talker = tiny_model().talker
    cache = talker.allocate(1, LENGTH)
    hidden = talker(prompt[None], cache, rows([0], [0]))[0]
    return hidden, talker.head(hidden)


@torch.inference_mode()
@pytest.mark.parametrize("fill", [0.0, 1e4])
def test_prefill_of_unequal_prompts_equals_single_prompts(fill: float) -> None:
    talker, parts = tiny_model().talker, prompts(5, 17, 1, 11)
    cache = talker.allocate(6, LENGTH)
    hidden, logits = prefill(
        talker, padded(parts, fill), cache, rows([4, 0, 5, 2], [0] * 4), torch.tensor([len(part) for part in parts])
    )
    for index, part in enumerate(parts):
        alone, scores = single(part)
        torch.testing.assert_close(hidden[index], alone[-1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits[index], scores[-1], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_steps_after_unequal_prefill_equal_one_long_prompt() -> None:
    talker, wholes, heads = tiny_model().talker, prompts(12, 25, 9), (4, 17, 1)
    cache = talker.allocate(3, LENGTH)
    slots = [2, 0, 1]
    prefill(
        talker,
        padded([whole[:head] for whole, head in zip(wholes, heads, strict=True)]),
        cache,
        rows(slots, [0, 0, 0]),
        torch.tensor(heads),
    )
    expected = [single(whole)[0] for whole in wholes]
    for step in range(8):
        inputs = torch.stack([whole[head + step] for whole, head in zip(wholes, heads, strict=True)])
        length = 40 if step % 2 else LENGTH  # the static length must not matter
        hidden, _ = talker.step(inputs, cache, rows(slots, [head + step for head in heads], length))
        for row, head in enumerate(heads):
            torch.testing.assert_close(hidden[row], expected[row][head + step], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_prefill_in_a_used_slot_equals_a_fresh_one() -> None:
    talker, (old, new) = tiny_model().talker, prompts(40, 6)
    cache = talker.allocate(1, LENGTH)
    talker(old[None], cache, rows([0], [0]))
    hidden = talker(new[None], cache, rows([0], [0]))[0]
    torch.testing.assert_close(hidden, single(new)[0], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_copied_prefix_continues_like_its_source() -> None:
    talker, (whole,) = tiny_model().talker, prompts(14)
    cache = talker.allocate(3, LENGTH)
    talker(whole[None, :9], cache, rows([0], [0]))
    cache.put_prefix(2, cache.prefix(0, 9))
    hidden = talker(whole[None, 9:], cache, rows([2], [9]))[0]
    torch.testing.assert_close(hidden, single(whole)[0][9:], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_text_table_in_host_memory_has_same_embeddings() -> None:
    options = LoadOptions(device="cpu", dtype=torch.float32, text_table_device="cpu", encoders=False)
    model = load(tiny_directory(), options)
    ids = torch.tensor([[1, 700, 3]])
    assert model.encoder is None
    assert model.speaker_encoder is None
    torch.testing.assert_close(model.talker.text(ids), tiny_model().talker.text(ids))
    assert torch.equal(model.talker.text(model.talker.text.rows(ids)), model.talker.text(ids))


@torch.inference_mode()
def test_frame_embedding_is_the_sum_of_its_groups() -> None:
    codes = torch.randint(0, 2048, (3, 16), generator=torch.Generator().manual_seed(1))
    table = tiny_model().talker.codes
    singles = [table.weight[table.row(group, codes[:, group])] for group in range(16)]
    torch.testing.assert_close(table(codes), torch.stack(singles).sum(0))
    torch.testing.assert_close(table.group0(codes[:, 0]), singles[0])


@torch.inference_mode()
@pytest.mark.parametrize("size", ["1b7", "0b6"])
def test_folded_projection_changes_nothing(size: str) -> None:
    folded = tiny_model(size=size).code_predictor
    plain = load(
        tiny_directory(size=size), LoadOptions(device="cpu", dtype=torch.float32, fold_projection=False)
    ).code_predictor
    hidden, code0 = torch.randn(3, 64, generator=torch.Generator().manual_seed(2)), torch.tensor([5, 0, 2047])
    seen: list[list[torch.Tensor]] = []
    for predictor in (folded, plain):
        passes: list[torch.Tensor] = []

        def best(logits: torch.Tensor, _: int, passes: list[torch.Tensor] = passes) -> torch.Tensor:
            passes.append(logits)
            return logits.argmax(-1)

        predictor.frame(hidden, code0, predictor.allocate(4), best)
        seen.append(passes)
    assert (folded.projected is not None) == (size == "1b7")
    assert plain.projected is None
    torch.testing.assert_close(torch.stack(seen[0]), torch.stack(seen[1]), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_predictor_rows_and_frames_are_independent() -> None:
    predictor = tiny_model().code_predictor
    hidden, code0 = torch.randn(4, 64, generator=torch.Generator().manual_seed(3)), torch.tensor([1, 2, 3, 4])
    cache = predictor.allocate(4)

    def best(logits: torch.Tensor, _: int) -> torch.Tensor:
        return logits.argmax(-1)

    together = predictor.frame(hidden, code0, cache, best)
    alone = [predictor.frame(hidden[row : row + 1], code0[row : row + 1], cache, best) for row in range(4)]
    assert together.shape == (4, 16)
    assert torch.equal(together, torch.cat(alone))


@torch.inference_mode()
def test_bfloat16_stays_close_to_float32() -> None:
    half = load(tiny_directory(), LoadOptions(device="cpu", dtype=torch.bfloat16)).talker
    (prompt,) = prompts(20)
    hidden = half(prompt[None].bfloat16(), half.allocate(1, LENGTH), rows([0], [0]))[0]
    assert hidden.dtype == torch.bfloat16
    assert torch.cosine_similarity(hidden.float(), single(prompt)[0], dim=-1).min() > 0.999
