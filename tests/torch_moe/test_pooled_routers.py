"""Routing of sequences and segments: means by hand, masks, the shift, and what may leak."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'moe' is not installed")

from nashsolve.core.errors import InvalidProblem  # noqa: E402
from nashsolve.integrations.torch_moe.routers import make_router  # noqa: E402
from tests.asserts import as_numpy, assert_bitwise, assert_near  # noqa: E402

D, N, B, T = 4, 3, 2, 10
CLOSE = 1e-5


@pytest.fixture
def hidden():
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def mask():
    value = torch.ones(B, T, dtype=torch.bool)
    value[0, 7:] = False
    value[1, 3:] = False
    return value


def make(level, **options):
    torch.manual_seed(4)
    router = make_router("linear", d_model=D, n_experts=N, top_k=2, level=level, **options)
    torch.nn.init.normal_(router.inner.gate.weight)
    return router


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def routed(router, mean):
    return softmax(as_numpy(router.inner.gate.weight) @ mean)


@pytest.mark.parametrize("count_padding", [False, True])
def test_sequence_mean(hidden, mask, count_padding):
    router = make("sequence", count_padding=count_padding)
    output = router(hidden, token_mask=mask)
    assert output.probs.shape == (B, N) and output.topk_index.shape == (B, 2)
    for b in range(B):
        real = range(T) if count_padding else [t for t in range(T) if mask[b, t]]
        assert_near(output.probs[b], routed(router, as_numpy(hidden)[b, list(real)].mean(0)), rtol=CLOSE)
    assert_near(router(hidden).probs[0], routed(router, as_numpy(hidden)[0].mean(0)), rtol=CLOSE)


def test_layer_norm_before_the_router(hidden):
    router = make("sequence", norm=True)
    mean = as_numpy(hidden)[1].mean(0)
    normed = (mean - mean.mean()) / np.sqrt(mean.var() + 1e-5)
    assert_near(router(hidden).probs[1], routed(router, normed), rtol=1e-4)


@pytest.mark.parametrize("length", [3, 5, 10, 16])
@pytest.mark.parametrize("causal", [True, False])
def test_segment_means_and_their_shift(hidden, mask, length, causal):
    router = make("segment", segment_length=length, causal=causal)
    output = router(hidden, token_mask=mask)
    n_segments = -(-T // length)
    assert output.probs.shape == (B * n_segments, N)
    for b in range(B):
        for s in range(n_segments):
            source = s - 1 if causal else s
            tokens = [t for t in range(source * length, min((source + 1) * length, T)) if t >= 0 and mask[b, t]]
            mean = as_numpy(hidden)[b, tokens].mean(0) if tokens else np.zeros(D)
            if source < 0:
                mean = as_numpy(router.start)
            assert_near(output.probs[b * n_segments + s], routed(router, mean), rtol=CLOSE)
            used = any(mask[b, t] for t in range(s * length, min((s + 1) * length, T)))
            assert bool(output.row_mask[b * n_segments + s]) == used
    assert router.level == "segment" and router.segment_length == length


def test_count_padding_of_segments_counts_padding_but_no_filling(hidden, mask):
    router = make("segment", segment_length=4, causal=False, count_padding=True)
    output = router(hidden, token_mask=mask)
    for s, tokens in enumerate((range(4), range(4, 8), range(8, 10))):
        assert_near(output.probs[s], routed(router, as_numpy(hidden)[0, list(tokens)].mean(0)), rtol=CLOSE)


def test_after_step_reaches_the_inner_router(hidden):
    router = make_router("sigmoid", d_model=D, n_experts=N, top_k=1, level="sequence", bias_rate=0.5)
    router(hidden)
    router.after_step()
    assert float(router.inner.bias.abs().max()) == 0.5


def test_first_segment_by_zeros_is_uniform(hidden):
    output = make("segment", segment_length=5, first="zero")(hidden)
    assert_near(output.probs[0], np.full(N, 1 / N), rtol=CLOSE)


@pytest.mark.parametrize(("first", "leaks"), [("learned", False), ("zero", False), ("own", True)])
def test_no_token_influences_an_earlier_segment(hidden, first, leaks):
    router = make("segment", segment_length=5, first=first)
    changed = hidden.clone()
    changed[:, 4] += 1.0  # the last token of the first segment
    one, other = router(hidden).probs.reshape(B, 2, N), router(changed).probs.reshape(B, 2, N)
    assert bool((one[:, 0] != other[:, 0]).any()) == leaks
    assert (one[:, 1] != other[:, 1]).any()
    last = hidden.clone()
    last[:, 5:] += 1.0
    assert_bitwise(router(last).probs.detach(), router(hidden).probs.detach())


@pytest.mark.parametrize(("first", "trained"), [("learned", True), ("own", False)])
def test_one_published_segment_leaves_the_router_untrained(hidden, first, trained):
    router = make("segment", segment_length=T, first=first)
    output = router(hidden)
    (output.probs.square().sum() + output.topk_weight.sum()).backward() if output.probs.requires_grad else None
    gradient = router.inner.gate.weight.grad
    assert (gradient is not None and float(gradient.abs().max()) > 0) == trained


def test_own_first_rows_only_are_detached(hidden):
    router = make("segment", segment_length=5, first="own")
    x = hidden.clone().requires_grad_()
    router(x).probs[:, 0].sum().backward()
    assert float(x.grad[:, :5].abs().max()) > 0  # through the second segment, which the first one routes
    x.grad = None
    router(x).probs.reshape(B, 2, N)[:, 0, 0].sum().backward()
    assert float(x.grad.abs().max()) == 0


@pytest.mark.parametrize("level", ["sequence", "segment"])
def test_stable_distils_from_the_mean_embedding(hidden, mask, level):
    torch.manual_seed(0)
    options = {"vocab_size": 7, "first_stage_steps": 0, "capacity_factor": None}
    if level == "segment":
        options |= {"segment_length": 5, "causal": False}
    router = make_router("stable", d_model=D, n_experts=N, level=level, **options)
    ids = torch.randint(0, 7, (B, T))
    output = router(hidden, input_ids=ids, token_mask=mask)
    inner = router.inner
    size = T if level == "sequence" else 5
    for row in range(output.probs.shape[0]):
        b, s = divmod(row, T // size)
        real = [t for t in range(s * size, (s + 1) * size) if mask[b, t]]
        word = as_numpy(inner.token_embedding.weight)[[int(ids[b, t]) for t in real]]
        mean = word.mean(0) if real else np.zeros(word.shape[1])
        assert_near(output.probs[row], softmax(as_numpy(inner.distilled.weight) @ mean), rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: make("segment", segment_length=5, first="last"), "first"),
        (lambda: make("segment", segment_length=5, causal=False, first="own"), "changes nothing"),
        (lambda: make("segment", segment_length=0), "length"),
        (lambda: make("sequence")(torch.zeros(5, D)), r"\(batch, length, d\)"),
    ],
)
def test_bad_settings_are_named(call, match):
    with pytest.raises(InvalidProblem, match=match):
        call()
