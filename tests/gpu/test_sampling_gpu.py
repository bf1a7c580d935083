"""The sampler in a CUDA graph draws what it draws on the CPU."""

import pytest
import torch

from engine.prompt.sampling_params import Draw, SamplingParams
from engine.runtime.sampler import CodeRules, Noise, Sampler, SamplerLimits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

PARAMS = [
    SamplingParams(),
    SamplingParams(talker=Draw(do_sample=False), predictor=Draw(True, 1.2, 5, 0.8)),
    SamplingParams(talker=Draw(True, 0.7, 0, 0.9), repetition_penalty=1.5, penalty_window=4),
    SamplingParams(talker=Draw(True, 1.0, 200, 1.0), repetition_penalty=1.2, penalty_window=100),
]


def make(device: str) -> Sampler:
    sampler = Sampler(5, CodeRules(), SamplerLimits(), device)
    for slot, params in enumerate(PARAMS):
        sampler.join(slot, params, 10 + slot)
    return sampler


def test_noise_on_gpu_equals_noise_on_cpu() -> None:
    seeds, samples = torch.arange(4), torch.arange(4)
    ours = Noise(range(16), 3072).draw(seeds, samples)
    theirs = Noise(range(16), 3072, "cuda").draw(seeds.cuda(), samples.cuda()).cpu()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_captured_sampler_step_equals_cpu() -> None:
    cpu, gpu = make("cpu"), make("cuda")
    rows = torch.tensor([2, 0, 3, 1, 4])
    slots, active = rows.cuda(), torch.tensor([True] * 4 + [False], device="cuda")
    logits = torch.zeros(5, 3072, device="cuda")

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        first = gpu.talker(logits, slots, active)
        return first, gpu.predictor(logits[:, :2048], slots, gpu.predictor_noise(slots)[:, 6])

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = step()
    for slot, params in enumerate(PARAMS):
        gpu.join(slot, params, 10 + slot)
    generator = torch.Generator().manual_seed(4)
    for _ in range(150):
        fresh = 3 * torch.randn(5, 3072, generator=generator)
        logits.copy_(fresh)
        graph.replay()
        first = cpu.talker(fresh, rows, active.cpu())
        later = cpu.predictor(fresh[:, :2048], rows, cpu.predictor_noise(rows)[:, 6])
        assert torch.equal(captured[0].cpu()[:4], first[:4])
        assert torch.equal(captured[1].cpu()[:4], later[:4])
