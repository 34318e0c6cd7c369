"""Token by token: a cache changes no logits, and generating keeps no more memory than the model itself needs."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from hpc_accel.infer.generate import Generator
from hpc_accel.study.infer_options import Generate
from hpc_accel.workloads.builtin import lm

CPU = torch.device("cpu")


class Alone:
    """A communicator of one rank."""

    def Get_size(self):
        return 1


@torch.no_grad()
def test_cached_generation_is_uncached_generation():
    torch.manual_seed(0)
    model = lm.build(layers=2, hidden=32, heads=4, sequence=24).model.eval()
    prompts = torch.randint(0, 256, (3, 24))
    served = SimpleNamespace(module=model, device=CPU)
    generator = Generator(served, Alone(), Generate(prompt=7, tokens=17), prompts)
    cached, plain = (generator(kv_cache=each, keep_logits=True) for each in (True, False))
    assert cached.tokens.shape == (3, 24)
    assert (cached.tokens[:, :7] == prompts[:, :7]).all()
    assert (cached.tokens == plain.tokens).all()
    assert torch.allclose(cached.logits, plain.logits, atol=1e-5)
    assert generator.cache_error(cached) < 1e-5
    assert len(cached.token_ns) == 17
    assert cached.token_ns == sorted(cached.token_ns)


@torch.no_grad()
def test_a_cache_that_forgets_is_found_out():
    torch.manual_seed(0)
    model = lm.build(layers=1, hidden=32, heads=4, sequence=16).model.eval()
    generator = Generator(
        SimpleNamespace(module=model, device=CPU), Alone(), Generate(prompt=4, tokens=6), torch.randint(0, 256, (2, 16))
    )
    attention = model[1].attention
    attention.decode = lambda states, cache: attention(states)  # sees the new token only
    assert generator.cache_error(generator(kv_cache=True, keep_logits=True)) > 1e-2


class Watched(nn.Module):
    """Logits of the whole sequence, as a model without a cache gives them; how many of them live at once."""

    def __init__(self):
        super().__init__()
        self.alive, self.most = [], 0

    def forward(self, tokens):
        self.alive = [each for each in self.alive if not each.expired()]
        logits = torch.randn(*tokens.shape, 50)
        self.alive.append(StorageWeakRef(logits.untyped_storage()))
        self.most = max(self.most, len(self.alive))
        return logits


@torch.no_grad()
def test_logits_of_whole_sequences_are_gone_before_the_next_token():
    model = Watched()
    generator = Generator(
        SimpleNamespace(module=model, device=CPU), Alone(), Generate(prompt=4, tokens=6), torch.randint(0, 50, (2, 10))
    )
    kept = generator(kv_cache=False, keep_logits=True)
    assert model.most == 1
    assert kept.logits.shape == (2, 6, 50)
    assert generator(kv_cache=False).logits is None
