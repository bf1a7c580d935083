"""The batched sampler against a plain one row at a time, its distribution, and its independence of the batch."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.prompt.sampling_params import Draw, SamplingParams, resolve_sampling
from engine.runtime.sampler import CodeRules, DrawRows, Noise, Sampler, SamplerLimits, pick

SMALL = CodeRules(vocab=24, eos=18, suppressed=8, predictor_vocab=16, code_groups=4)
GREEDY = Draw(do_sample=False)


def rows_of(*draws: Draw) -> DrawRows:
    return DrawRows(
        torch.tensor([[draw.temperature] for draw in draws]),
        torch.tensor([[draw.top_k] for draw in draws]),
        torch.tensor([[draw.top_p] for draw in draws]),
        torch.tensor([[not draw.do_sample] for draw in draws]),
    )


def kept(logits: list[float], draw: Draw) -> list[int]:
    """Which ids may be drawn, the slow and obvious way (ties with the last one kept stay)."""
    scaled = [value / draw.temperature for value in logits]
    ids = sorted(range(len(scaled)), key=lambda index: -scaled[index])
    if draw.top_k:
        floor = scaled[ids[min(draw.top_k, len(ids)) - 1]]
        ids = [index for index in ids if scaled[index] >= floor]
    if draw.top_p < 1:
        weights = [math.exp(scaled[index] - scaled[ids[0]]) for index in ids]
        reached, count = 0.0, 0
        while count < len(ids) and reached < draw.top_p * sum(weights):
            reached, count = reached + weights[count], count + 1
        floor = scaled[ids[count - 1]]
        ids = [index for index in ids if scaled[index] >= floor]
    return sorted(ids)


def allowed(logits: Tensor, draw: Draw, k_limit: int | None = None, nucleus: bool = True) -> list[int]:
    """Which ids `pick` may draw: each id in turn gets noise that makes it win if it is there at all."""
    vocab = logits.shape[0]
    noise = torch.eye(vocab) * 1e6
    picked = pick(logits.expand(vocab, vocab), noise, rows_of(*[draw] * vocab), k_limit, nucleus)
    return [index for index in range(vocab) if picked[index] == index]


# Quarters: ties are frequent and sums exact enough for a plain comparison.
logit_lists = st.lists(st.integers(-16, 16).map(lambda number: number / 4), min_size=2, max_size=12)


@settings(max_examples=250, deadline=None)
@given(logit_lists, st.integers(0, 14), st.sampled_from([0.05, 0.31, 0.5, 0.77, 0.93, 0.999, 1.0]), st.floats(0.3, 2))
def test_filters_keep_the_ids_of_a_plain_implementation(
    logits: list[float], top_k: int, top_p: float, temperature: float
) -> None:
    draw = Draw(True, temperature, top_k, top_p)
    assert allowed(torch.tensor(logits), draw) == kept(logits, draw)
    if 0 < top_k <= 5:
        assert allowed(torch.tensor(logits), draw, k_limit=5) == kept(logits, draw)
        flat = Draw(True, temperature, top_k, 1.0)
        assert allowed(torch.tensor(logits), flat, k_limit=5, nucleus=False) == kept(logits, flat)


def test_top_k_keeps_ties_with_the_kth() -> None:
    assert allowed(torch.tensor([1.0, 2.0, 2.0, 0.0, 2.0]), Draw(top_k=2)) == [1, 2, 4]


@pytest.mark.parametrize(
    ("top_p", "ids"),
    [
        (1e-6, [0]),
        (0.49, [0]),
        (0.51, [0, 1]),
        (0.74, [0, 1]),
        (0.76, [0, 1, 2]),
        (0.9999, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_top_p_keeps_the_id_that_crosses(top_p: float, ids: list[int]) -> None:
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125 - 1e-3]).log()
    assert allowed(logits, Draw(True, 1.0, 0, top_p)) == ids


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    for top_k in (0, 4, 5, 10**9):
        assert allowed(torch.randn(4), Draw(top_k=top_k)) == [0, 1, 2, 3]


def test_filters_never_keep_suppressed_ids() -> None:
    logits = torch.tensor([0.0, float("-inf"), 1.0])
    assert allowed(logits, Draw(top_k=0)) == [0, 2]
    assert allowed(logits, Draw(top_k=3, top_p=0.99)) == [0, 2]


def test_low_precision_logits_are_sampled_in_float32() -> None:
    logits = torch.randn(3, 50)
    noise = Noise(range(1), 50).draw(torch.arange(3), torch.zeros(3, dtype=torch.int64))[:, 0]
    rows = rows_of(Draw(), Draw(top_k=5), GREEDY)
    half = logits.bfloat16()
    assert torch.equal(pick(half, noise, rows), pick(half.float(), noise, rows))


# --- noise ------------------------------------------------------------------------------------------------------


def test_noise_depends_on_seed_sample_group_and_index_only() -> None:
    seeds, samples = torch.tensor([5, 2**62, 5, 0]), torch.tensor([0, 9, 1, 0])
    whole = Noise(range(16), 64).draw(seeds, samples)
    assert whole.shape == (4, 16, 64)
    part = Noise(range(3, 5), 32).draw(seeds[1:2], samples[1:2])
    assert torch.equal(part[0], whole[1, 3:5, :32])
    assert len({tuple(row.tolist()) for row in whole.reshape(-1, 64)}) == 64


def plain_noise(seed: int, sample: int, group: int, index: int) -> float:
    """The same noise in whole numbers of Python."""
    golden, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1

    def mix(bits: int) -> int:
        bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & mask
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & mask
        return bits ^ (bits >> 31)

    row = mix((mix((seed + golden) & mask) + sample) & mask)
    key = mix((row + group * golden) & mask)
    bits = mix((key + (index + 1) * golden) & mask)
    return -math.log(-math.log(((bits >> 41) + 0.5) / 2**23))


def test_noise_values_are_fixed_across_versions() -> None:
    """A seed kept by a user keeps its audio: this noise must not change between versions."""
    seeds, samples = [42, 0, 2**63 - 1], [7, 0, 10**6]
    drawn = Noise(range(16), 20).draw(torch.tensor(seeds), torch.tensor(samples))
    want = [
        [[plain_noise(seed, sample, group, index) for index in range(20)] for group in range(16)]
        for seed, sample in zip(seeds, samples, strict=True)
    ]
    torch.testing.assert_close(drawn, torch.tensor(want), rtol=1e-4, atol=1e-5)
    assert plain_noise(42, 7, 0, 0) == pytest.approx(4.254139)


def test_noise_follows_the_gumbel_distribution() -> None:
    noise = Noise(range(16), 3072).draw(torch.arange(8), torch.zeros(8, dtype=torch.int64)).double()
    assert torch.isfinite(noise).all()
    assert abs(noise.mean() - 0.5772) < 0.01
    assert abs(noise.var() - math.pi**2 / 6) < 0.02
    uniform = torch.exp(-torch.exp(-noise)).flatten().sort().values
    steps = (torch.arange(uniform.numel()) + 0.5) / uniform.numel()
    assert (uniform - steps).abs().max() < 1.95 / math.sqrt(uniform.numel())  # Kolmogorov–Smirnov at 0.1 %
    for other in (noise.roll(1, 0), noise.roll(1, 1), noise.roll(1, 2)):
        assert abs(torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1]) < 0.007


def chi_square(ids: Tensor, probabilities: Tensor) -> float:
    seen = torch.bincount(ids, minlength=probabilities.numel()).double()
    hoped = probabilities.double() * ids.numel()
    used = hoped > 0
    assert seen[~used].sum() == 0
    return float(((seen - hoped)[used] ** 2 / hoped[used]).sum())


@pytest.mark.parametrize("axis", ["seed", "sample", "group"])
def test_draws_follow_the_softmax(axis: str) -> None:
    """20 000 draws along each of the three counters; 11 degrees of freedom, 31.3 is the 0.1 % point."""
    logits, size = torch.linspace(-1, 2, 12), 20000
    count, still = torch.arange(size), torch.full((size,), 3)
    if axis == "group":
        noise = Noise(range(size), 12).draw(torch.tensor([3]), torch.tensor([3]))[0]
    else:
        noise = Noise(range(1), 12).draw(*((count, still) if axis == "seed" else (still, count)))[:, 0]
    draw = Draw(True, 0.8, 0, 1.0)
    rows = DrawRows(*(field.expand(size, 1) for field in rows_of(draw)))
    assert chi_square(pick(logits.expand(size, 12), noise, rows), torch.softmax(logits / 0.8, 0)) < 31.3


def test_filtered_draws_follow_the_renormalized_softmax() -> None:
    logits, size = torch.tensor([0.3, 1.0, -0.5, 1.0, 0.0, -2.0]), 20000
    noise = Noise(range(1), 6).draw(torch.arange(size), torch.zeros(size, dtype=torch.int64))[:, 0]
    draw = Draw(True, 1.3, 4, 0.9)
    rows = DrawRows(*(field.expand(size, 1) for field in rows_of(draw)))
    weights = torch.zeros(6)
    ids = kept(logits.tolist(), draw)
    weights[ids] = torch.softmax(logits[ids] / 1.3, 0)
    assert chi_square(pick(logits.expand(size, 6), noise, rows), weights) < 16.3  # 3 degrees of freedom


# --- the sampler of a batch -------------------------------------------------------------------------------------


class PlainSlot:
    """One job's rules and history, in lists and sets."""

    def __init__(self, params: SamplingParams, seed: int, rules: CodeRules) -> None:
        self.params, self.seed, self.rules = params, seed, rules
        self.history: list[int] = []

    def draw(self, logits: list[float]) -> int:
        rules, params = self.rules, self.params
        recent = self.history[-params.penalty_window :] if params.penalty_window else self.history
        values = torch.tensor(logits).tolist()
        for index in set(recent):
            value = torch.tensor(values[index])
            values[index] = float(value / params.repetition_penalty if value > 0 else value * params.repetition_penalty)
        for index in range(rules.vocab - rules.suppressed, rules.vocab):
            if index != rules.eos or len(self.history) < params.min_new_tokens:
                values[index] = float("-inf")
        draw = params.talker
        if draw.do_sample:
            noise = Noise(range(1), rules.vocab).draw(torch.tensor([self.seed]), torch.tensor([len(self.history)]))[
                0, 0
            ]
            ids = kept(values, draw)
            chosen = max(ids, key=lambda index: values[index] / draw.temperature + float(noise[index]))
        else:
            chosen = max(range(rules.vocab), key=lambda index: (values[index], -index))
        self.history.append(chosen)
        return chosen


PARAMS = [
    SamplingParams(),
    SamplingParams(talker=Draw(True, 0.6, 3, 0.9), repetition_penalty=1.4, min_new_tokens=0),
    SamplingParams(talker=GREEDY, repetition_penalty=1.7),
    SamplingParams(talker=Draw(True, 1.5, 0, 0.8), repetition_penalty=2.0, penalty_window=3, min_new_tokens=5),
    SamplingParams(talker=GREEDY, repetition_penalty=1.3, penalty_window=1),
    SamplingParams(talker=Draw(True, 1.0, 10, 1.0), repetition_penalty=0.7, penalty_window=8),
]


def test_sampler_batch_equals_plain_sequences() -> None:
    """60 steps of six different jobs in a shuffled batch, with stalls, on a ring as small as the largest window."""
    generator = torch.Generator().manual_seed(1)
    sampler = Sampler(9, SMALL, SamplerLimits(window=8))
    slots = [4, 1, 7, 0, 8, 3]
    plain = {slot: PlainSlot(params, 100 + slot, SMALL) for slot, params in zip(slots, PARAMS, strict=True)}
    for slot, job in plain.items():
        sampler.join(slot, job.params, job.seed)
    for _ in range(60):
        order = [slots[index] for index in torch.randperm(6, generator=generator)]
        active = torch.rand(6, generator=generator) < 0.8
        logits = 2 * torch.randn(6, SMALL.vocab, generator=generator)
        ids = sampler.talker(logits, torch.tensor(order), active)
        for row, slot in enumerate(order):
            job = plain[slot]
            before = list(job.history)
            assert ids[row] == job.draw(logits[row].tolist()), (slot, len(before))
            if not active[row]:
                job.history = before


def test_sampler_rows_are_independent() -> None:
    logits = torch.randn(20, SMALL.vocab, generator=torch.Generator().manual_seed(2))

    def run(slot: int, slots: list[int], count: int) -> list[int]:
        sampler = Sampler(count, SMALL, SamplerLimits())
        for other in range(count):
            sampler.join(other, PARAMS[other % 6], other)
        sampler.join(slot, SamplingParams(), 77)
        codes = []
        for step in range(20):
            rows = torch.randn(len(slots), SMALL.vocab)
            rows[slots.index(slot)] = logits[step]
            ids = sampler.talker(rows, torch.tensor(slots), torch.ones(len(slots), dtype=torch.bool))
            codes.append(int(ids[slots.index(slot)]))
        return codes

    assert run(0, [0], 1) == run(3, [5, 3, 1], 6) == run(2, [0, 1, 2, 3, 4, 5, 6, 7], 8)


def test_predictor_draws_without_penalty_or_suppression() -> None:
    sampler = Sampler(2, SMALL, SamplerLimits())
    params = SamplingParams(predictor=Draw(top_k=3), repetition_penalty=5.0)
    sampler.join(0, params, 9)
    sampler.join(1, SamplingParams(predictor=GREEDY), 9)
    slots, active = torch.tensor([1, 0]), torch.tensor([True, True])
    logits, seen = torch.randn(2, SMALL.predictor_vocab), Counter[int]()
    for sample in range(40):
        sampler.talker(torch.randn(2, SMALL.vocab), slots, active)
        noise = sampler.predictor_noise(slots)
        assert torch.equal(noise[1], Noise(range(1, 4), 16).draw(torch.tensor([9]), torch.tensor([sample]))[0])
        for group in range(3):
            ids = sampler.predictor(logits, slots, noise[:, group])
            assert ids[0] == logits[0].argmax()
            seen[int(ids[1])] += 1
    assert sorted(seen) == kept(logits[1].tolist(), params.predictor)


def test_greedy_draw_obeys_suppression_and_min_new_tokens() -> None:
    sampler = Sampler(1, CodeRules(), SamplerLimits())
    sampler.join(0, resolve_sampling({"do_sample": False, "repetition_penalty": 1.0}), 0)
    logits = torch.zeros(1, 3072)
    logits[0, 2157], logits[0, 2150], logits[0, 17] = 9.0, 8.0, 7.0
    slots, active = torch.tensor([0]), torch.tensor([True])
    assert [int(sampler.talker(logits, slots, active)) for _ in range(4)] == [17, 17, 2150, 2150]


def test_join_resets_the_slot() -> None:
    sampler = Sampler(1, SMALL, SamplerLimits(window=4))
    slots, active = torch.tensor([0]), torch.tensor([True])
    logits = torch.randn(30, 1, SMALL.vocab)
    runs = []
    for _ in range(2):
        sampler.join(0, PARAMS[3], 5)
        runs.append([int(sampler.talker(row, slots, active)) for row in logits])
    assert runs[0] == runs[1]


def test_inactive_rows_share_the_spare_slot() -> None:
    sampler = Sampler(2, SMALL, SamplerLimits())
    sampler.join(0, SamplingParams(), 1)
    before = [tensor.clone() for tensor in (sampler.counts[1], sampler.samples[1])]
    sampler.talker(torch.randn(4, SMALL.vocab), torch.tensor([0, 1, 1, 1]), torch.tensor([True, False, False, False]))
    assert all(torch.equal(a, b) for a, b in zip(before, (sampler.counts[1], sampler.samples[1]), strict=True))
    assert sampler.counts[0].sum() == 1


def test_join_rejects_parameters_beyond_static_limits() -> None:
    sampler = Sampler(1, SMALL, SamplerLimits(k_limit=64, nucleus=False, window=100))
    for params in (SamplingParams(talker=Draw(top_k=65)), SamplingParams(penalty_window=101)):
        with pytest.raises(AssertionError):
            sampler.join(0, params, 0)


def test_sampler_reads_no_value_back_to_the_host() -> None:
    """Fake tensors have shapes and no data: any read-back or shape that depends on data would raise."""
    with FakeTensorMode():
        sampler = Sampler(3, SMALL, SamplerLimits())
        slots, active = torch.tensor([2, 0]), torch.tensor([True, False])
        assert sampler.talker(torch.randn(2, SMALL.vocab), slots, active).shape == (2,)
        noise = sampler.predictor_noise(slots)
        assert sampler.predictor(torch.randn(2, SMALL.predictor_vocab), slots, noise[:, 0]).shape == (2,)
