"""Every router against a slow reference that is written, row by row, from its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'moe' is not installed")

from nashsolve.core.errors import InvalidProblem, InvalidType  # noqa: E402
from nashsolve.integrations.torch_moe.routers import ROUTERS, LinearRouter, Router, follow, make_router  # noqa: E402
from tests.asserts import as_numpy, assert_bitwise, assert_near  # noqa: E402

D, N, VOCAB = 6, 5, 11
BATCH, LENGTH = 3, 7
CLOSE = 1e-5
"""Float32 routers against float64 references."""


def make(name, top_k=2, **options):
    torch.manual_seed(1)
    if name == "stable":
        top_k, options = 1, {"vocab_size": VOCAB, "first_stage_steps": 2} | options
    router = make_router(name, d_model=D, n_experts=N, top_k=top_k, **options)
    for parameter in router.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter)
    return router


@pytest.fixture
def hidden():
    return torch.randn(BATCH, LENGTH, D, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def ids():
    return torch.randint(0, VOCAB, (BATCH, LENGTH), generator=torch.Generator().manual_seed(3))


def rows(hidden):
    return as_numpy(hidden.reshape(-1, D))


def matrix(parameter):
    return as_numpy(parameter)


def softmax(z):
    e = np.exp(np.asarray(z) - np.max(z))
    return e / e.sum()


def best(z, k):
    return sorted(range(len(z)), key=lambda e: -z[e])[:k]


def assert_rows(output, wanted):
    """Each row of the output is (chosen, weights, probabilities) of the reference."""
    for t, (chosen, weight, probs) in enumerate(wanted):
        assert output.topk_index[t].tolist() == list(chosen)
        assert_near(output.topk_weight[t], np.asarray(weight), rtol=CLOSE, atol=CLOSE)
        assert_near(output.probs[t], np.asarray(probs), rtol=CLOSE, atol=CLOSE)
    assert len(wanted) == len(output.probs)


def test_the_row_assert_can_fail(hidden):
    output = make("linear")(hidden)
    wanted = [
        (i.tolist(), w.tolist(), p.tolist())
        for i, w, p in zip(output.topk_index, output.topk_weight, output.probs, strict=True)
    ]
    assert_rows(output, wanted)
    for place in range(3):
        off = [list(row) for row in wanted]
        off[4][place] = [0, 0] if place == 0 else [x + 0.01 for x in off[4][place]]
        with pytest.raises(AssertionError):
            assert_rows(output, off)


@pytest.mark.parametrize("top_k", [1, 2, 5])
@pytest.mark.parametrize("options", [{}, {"softmax": "after"}, {"normalize": True}, {"bias": True}])
def test_linear(hidden, top_k, options):
    router = make("linear", top_k, **options)
    w = matrix(router.gate.weight)
    b = matrix(router.gate.bias) if options.get("bias") else 0
    wanted = []
    for x in rows(hidden):
        z = w @ x + b
        chosen = best(z, top_k)
        if options.get("softmax") == "after":
            weight = softmax(z[chosen])
        else:
            weight = softmax(z)[chosen]
            if options.get("normalize") and top_k > 1:
                weight = weight / weight.sum()
        wanted.append((chosen, weight, softmax(z)))
    assert_rows(router(hidden), wanted)


def test_softmax_after_one_choice_leaves_the_router_without_gradient(hidden):
    for order, trained in (("before", True), ("after", False)):
        router = make("linear", 1, softmax=order)
        router(hidden).topk_weight.square().sum().backward()
        assert (float(router.gate.weight.grad.abs().max()) > 1e-6) == trained


def test_noise_of_linear_is_drawn_in_training_only(hidden):
    router = make("linear", 2, noise=3.0)
    noisy = router(hidden, generator=torch.Generator().manual_seed(5))
    draw = torch.empty(BATCH * LENGTH, N).normal_(generator=torch.Generator().manual_seed(5))
    assert_near(noisy.noisy_logits, (noisy.logits + draw * 3.0 / N).detach(), rtol=CLOSE, atol=CLOSE)
    assert_rows(noisy, [(best(z, 2), softmax(z)[best(z, 2)], softmax(z)) for z in as_numpy(noisy.noisy_logits)])
    assert_bitwise(router(hidden, generator=torch.Generator().manual_seed(5)).probs, noisy.probs)
    assert_near(router.eval()(hidden).probs, as_numpy(noisy.logits.softmax(-1)), rtol=CLOSE)


def test_jitter_multiplies_the_tokens_in_training_only(hidden):
    router = make("linear", 2, jitter=0.3)
    found = router(hidden, generator=torch.Generator().manual_seed(6)).logits
    draw = torch.empty(BATCH * LENGTH, D).uniform_(0.7, 1.3, generator=torch.Generator().manual_seed(6))
    assert_near(found, rows(hidden) * as_numpy(draw) @ matrix(router.gate.weight).T, rtol=CLOSE, atol=CLOSE)
    assert_near(router.eval()(hidden).logits, rows(hidden) @ matrix(router.gate.weight).T, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("epsilon", [0.01, 0.5])
@pytest.mark.parametrize("order", ["before", "after"])
def test_noisy_topk(hidden, epsilon, order):
    router = make("noisy_topk", 2, epsilon=epsilon, softmax=order)
    draw = torch.empty(BATCH * LENGTH, N).normal_(generator=torch.Generator().manual_seed(5)).numpy()
    wanted = []
    for x, n in zip(rows(hidden), draw, strict=True):
        spread = np.log1p(np.exp(matrix(router.noise_weight) @ x)) + epsilon
        z = matrix(router.gate_weight) @ x + n * spread
        chosen = best(z, 2)
        wanted.append((chosen, softmax(z[chosen]) if order == "after" else softmax(z)[chosen], softmax(z)))
    assert_rows(router(hidden, generator=torch.Generator().manual_seed(5)), wanted)


@pytest.mark.parametrize("log_scale", [0.7, 9.0])
def test_cosine(hidden, log_scale):
    router = make("cosine", 2, projection=4, temperature=0.25)
    assert_near(float(router.log_scale.detach()), math.log(4), rtol=CLOSE)
    torch.nn.init.constant_(router.log_scale, log_scale)
    p, b, s = (matrix(v) for v in (router.projector.weight, router.projector.bias, router.centroids))
    wanted = []
    for x in rows(hidden):
        y = p @ x + b
        z = np.array([y @ e / np.linalg.norm(y) / np.linalg.norm(e) for e in s]) * min(math.exp(log_scale), 100)
        wanted.append((best(z, 2), softmax(z)[best(z, 2)], softmax(z)))
    for t, found in enumerate(as_numpy(router(hidden).probs)):
        assert_near(found, wanted[t][2], rtol=1e-3, atol=1e-4)  # logits of size 100 in float32
    assert [row.tolist() for row in router(hidden).topk_index] == [list(row[0]) for row in wanted]


@pytest.mark.parametrize("projection", [3, None])
@pytest.mark.parametrize("normalize_token", [False, True])
def test_xmoe(hidden, projection, normalize_token):
    router = make("xmoe", 2, projection=projection, normalize_token=normalize_token)
    wanted = []
    for x in rows(hidden):
        y = x if projection is None else matrix(router.projector.weight) @ x
        y = y / np.linalg.norm(y) if normalize_token else y
        z = np.array([y @ e / np.linalg.norm(e) for e in matrix(router.centroids)])
        wanted.append((best(z, 2), softmax(z[best(z, 2)]), softmax(z)))
    before = router(hidden)
    assert_rows(before, wanted)
    router.after_step()
    assert_near(router.centroids.norm(dim=-1), np.full(N, 1.5), rtol=CLOSE)
    assert_near(router(hidden).probs, as_numpy(before.probs), rtol=CLOSE, atol=CLOSE)
    assert before.balance_temperature == 0.3


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_sigmoid(hidden):
    router = make("sigmoid", 3, scale=2.5)
    router.bias.copy_(torch.tensor([0.9, -0.9, 0.2, 0.0, 0.0]))
    wanted = []
    for x in rows(hidden):
        s = sigmoid(matrix(router.gate.weight) @ x)
        chosen = best(s + as_numpy(router.bias), 3)
        wanted.append((chosen, 2.5 * s[chosen] / s[chosen].sum(), s / s.sum()))
    assert_rows(router(hidden), wanted)
    raw = make("sigmoid", 3, normalize=False)
    found = raw(hidden)
    assert_near(found.topk_weight, as_numpy(found.logits.sigmoid().gather(-1, found.topk_index)), rtol=CLOSE)


def test_sigmoid_groups(hidden):
    torch.manual_seed(1)
    router = make_router("sigmoid", d_model=D, n_experts=8, top_k=2, n_groups=4, top_groups=2)
    torch.nn.init.normal_(router.gate.weight)
    router.bias.copy_(0.1 * torch.randn(8))
    for x, found in zip(rows(hidden), router(hidden).topk_index, strict=True):
        c = sigmoid(matrix(router.gate.weight) @ x) + as_numpy(router.bias)
        strength = [sum(sorted(c[2 * g : 2 * g + 2])[-2:]) for g in range(4)]
        open_groups = best(strength, 2)
        eligible = [e for e in range(8) if e // 2 in open_groups]
        assert found.tolist() == sorted(eligible, key=lambda e: -c[e])[:2]
    free = make_router("sigmoid", d_model=D, n_experts=8, top_k=2)
    free.load_state_dict(router.state_dict())
    assert (free(hidden).topk_index != router(hidden).topk_index).any()


def test_loss_free_bias_balances_without_touching_the_weights(hidden):
    router = make("sigmoid", 1, bias_rate=0.05)
    router.gate.weight.data[0] = 0
    router.bias[0] = 5.0  # all tokens choose expert 0 at first
    counts = torch.bincount(router(hidden).topk_index.flatten(), minlength=N)
    assert counts[0] == BATCH * LENGTH
    assert_bitwise(router.counts, counts.float())
    before = router.bias.clone()
    router.after_step()
    assert_near(router.bias - before, [-0.05, 0.05, 0.05, 0.05, 0.05], rtol=1e-4)
    assert float(router.counts.sum()) == 0
    for _ in range(120):
        router(hidden)
        router.after_step()
    assert torch.bincount(router.eval()(hidden).topk_index.flatten(), minlength=N).max() < 12
    assert float(router.counts.sum()) == 0  # evaluation counts nothing


def test_the_bias_follows_the_load_of_all_ranks(hidden, monkeypatch):
    router = make("sigmoid", 1, bias_rate=0.1)
    router(hidden)
    here = router.counts.clone()
    elsewhere = 1000.0 - 3 * here
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(elsewhere))
    router.after_step()
    assert_near(router.bias, as_numpy(0.1 * torch.sign(here - here.mean())), rtol=1e-6)  # the other ranks outweigh


@pytest.mark.parametrize("name", sorted(ROUTERS))
@pytest.mark.parametrize("level", ["token", "segment"])
def test_every_router_compiles_into_one_graph(name, level, hidden, ids):
    options = {"vocab_size": VOCAB} if name == "stable" else {}
    if level == "segment":
        options |= {"segment_length": 3}
    torch.manual_seed(0)
    router = make_router(name, d_model=D, n_experts=N, top_k=1, level=level, **options).eval()
    compiled = torch.compile(router, backend="eager", fullgraph=True)
    assert_bitwise(
        compiled(hidden, input_ids=ids).topk_weight.detach(), router(hidden, input_ids=ids).topk_weight.detach()
    )


def test_forgotten_after_step_is_noticed(hidden):
    router = make("sigmoid", 1)
    with pytest.warns(UserWarning, match="after_step"):
        for _ in range(1000):
            router(hidden[:1, :1])


def stable_reference(router, hidden, mask=None):
    """Weights, choices and the two losses of stage 1, sums over tokens."""
    chosen, weight = [], []
    for x in rows(hidden):
        z = matrix(router.centroids) @ x
        chosen.append(best(z, 1)[0])
        weight.append(sigmoid(z[chosen[-1]]))
    real = range(len(chosen)) if mask is None else [t for t in range(len(chosen)) if mask[t]]
    counts = np.bincount([chosen[t] for t in real], minlength=N)
    bal = sum((counts[chosen[t]] - counts.mean()) / counts.mean() * weight[t] for t in real)
    return chosen, weight, bal, real


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_stable_first_stage(hidden, ids, masked, reduction):
    router = make("stable", reduction=reduction, balance=0.2, distill=0.7, capacity_factor=None)
    mask = torch.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) % 4 != 1 if masked else None
    output = router(hidden, input_ids=ids, **({"token_mask": mask} if masked else {}))
    chosen, weight, bal, real = stable_reference(router, hidden, mask.flatten() if masked else None)
    assert output.topk_index[:, 0].tolist() == chosen
    assert_near(output.topk_weight[:, 0], np.array(weight), rtol=CLOSE)
    words, dis = matrix(router.token_embedding.weight), 0.0
    for t in real:
        scores = matrix(router.distilled.weight) @ words[int(ids.flatten()[t])]
        dis -= math.log(softmax(scores)[chosen[t]])
    share = 1.0 if reduction == "sum" else 1 / len(real)
    assert_near(output.losses["stable_balance"], 0.2 * share * bal, rtol=1e-4)
    assert_near(output.losses["stable_distill"], 0.7 * share * dis, rtol=1e-4)
    assert router.eval()(hidden, input_ids=ids).losses == {}


def test_stable_evaluates_its_first_stage_by_the_distilled_scores(hidden, ids):
    for distilled in (True, False):
        router = make("stable", capacity_factor=None, evaluate_distilled=distilled).eval()
        words = matrix(router.token_embedding.weight)[ids.flatten().numpy()]
        by_id = (words @ matrix(router.distilled.weight).T).argmax(-1)
        by_token = (rows(hidden) @ matrix(router.centroids).T).argmax(-1)
        assert (by_id != by_token).any()
        found = router(hidden, input_ids=ids)
        assert found.topk_index[:, 0].tolist() == (by_id if distilled else by_token).tolist()
        gate = sigmoid((rows(hidden) * matrix(router.centroids)[found.topk_index[:, 0].numpy()]).sum(-1))
        assert_near(found.topk_weight[:, 0], gate, rtol=CLOSE)


def test_stable_second_stage_is_frozen_and_keeps_its_gate(hidden, ids):
    router = make("stable", capacity_factor=None)
    router.after_step()
    assert router.stage == 1
    router.after_step()
    assert router.stage == 2
    assert not router.distilled.weight.requires_grad and not router.token_embedding.weight.requires_grad
    output = router(hidden, input_ids=ids)
    words = matrix(router.token_embedding.weight)
    for t, x in enumerate(rows(hidden)):
        a = best(matrix(router.distilled.weight) @ words[int(ids.flatten()[t])], 1)[0]
        assert output.topk_index[t].tolist() == [a]
        assert_near(output.topk_weight[t], [sigmoid(matrix(router.centroids)[a] @ x)], rtol=CLOSE)
    assert output.losses == {}
    other = router(torch.randn_like(hidden), input_ids=ids)
    assert_bitwise(output.topk_index, other.topk_index)  # the tokens' ids decide alone
    resumed = make("stable", capacity_factor=None)
    resumed.load_state_dict(router.state_dict())
    assert resumed.stage == 2
    assert_bitwise(resumed(hidden, input_ids=ids).topk_weight, output.topk_weight)
    with pytest.raises(InvalidProblem, match="input_ids"):
        router(hidden)


def test_distillation_learns_the_decisions():
    """Tokens whose embedding alone decides: the frozen router must repeat what stage 1 did."""
    torch.manual_seed(0)
    table = torch.randn(VOCAB, D)
    router = make_router("stable", d_model=D, n_experts=N, vocab_size=VOCAB, first_stage_steps=150, reduction="mean")
    optimizer = torch.optim.Adam(router.parameters(), lr=0.05)
    handle = follow(optimizer, router)
    ids = torch.arange(VOCAB).repeat(4)[None]
    for _ in range(150):
        decided = router(table[ids], input_ids=ids)
        optimizer.zero_grad()
        decided.losses["stable_distill"].backward()
        optimizer.step()
    handle.remove()
    assert router.stage == 2
    assert_bitwise(router(table[ids], input_ids=ids).topk_index, decided.topk_index)


@pytest.mark.parametrize("order", ["arrival", "score"])
def test_capacity_sets_weights_of_dropped_choices_to_zero(hidden, order):
    mask = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    mask[0, :3] = False
    tight, free = make("linear", 2, capacity_factor=0.6, drop_order=order), make("linear", 2)
    dropped, whole = tight(hidden, token_mask=mask), free(hidden, token_mask=mask)
    capacity = 2 * math.floor(0.6 * math.ceil(BATCH * LENGTH / N))
    first = list(range(BATCH * LENGTH))
    if order == "score":
        first.sort(key=lambda t: -float(whole.probs[t].detach().max()))
    load, wanted = [0] * N, as_numpy(whole.topk_weight).copy()
    for j in range(2):
        for t in first:
            if mask.flatten()[t]:
                e = int(whole.topk_index[t, j])
                load[e] += 1
                wanted[t, j] *= load[e] <= capacity
    real = mask.flatten().numpy()
    assert_near(as_numpy(dropped.topk_weight)[real], wanted[real], rtol=CLOSE)
    assert (wanted[real] == 0).any()
    assert_near(dropped.dense().sum(-1), as_numpy(dropped.topk_weight.sum(-1)), rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("name", sorted(ROUTERS))
def test_every_router_keeps_its_promises(name, hidden, ids):
    router = make(name)
    output = router(hidden, input_ids=ids)
    k = router.top_k
    assert output.probs.shape == output.logits.shape == (BATCH * LENGTH, N)
    assert output.topk_index.shape == output.topk_weight.shape == (BATCH * LENGTH, k)
    assert_near(output.probs.sum(-1), np.ones(BATCH * LENGTH), rtol=CLOSE)
    assert (output.topk_weight >= 0).all()
    loss = (output.topk_weight**2).sum() + (output.probs**2).sum() + sum(output.losses.values())
    loss.backward()
    used = [p for p_name, p in router.named_parameters() if "noise" not in p_name]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in used)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert router.eval()(hidden, input_ids=ids).logits.dtype == torch.float32
    low = router.to(torch.bfloat16)(hidden.bfloat16(), input_ids=ids)
    assert low.probs.dtype == torch.float32


@pytest.mark.parametrize("name", sorted(ROUTERS))
def test_state_dict_resumes_bit_for_bit(name, hidden, ids):
    router = make(name)
    for _ in range(3):
        router(hidden, input_ids=ids)
        router.after_step()
    extra = {"vocab_size": VOCAB, "first_stage_steps": 2} if name == "stable" else {}
    again = make_router(name, d_model=D, n_experts=N, top_k=router.top_k, **extra)
    again.load_state_dict(router.state_dict())
    one, other = router.eval()(hidden, input_ids=ids), again.eval()(hidden, input_ids=ids)
    assert_bitwise(one.topk_weight.detach(), other.topk_weight.detach())


def test_follow_calls_after_step_once_per_step(hidden):
    router = make("sigmoid", 1)
    model = torch.nn.Sequential(router)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = follow(optimizer, model)
    for _ in range(3):
        router(hidden).topk_weight.sum().backward()
        optimizer.step()
    assert float(router.bias.abs().max()) == pytest.approx(3e-3)
    handle.remove()
    optimizer.step()
    assert float(router.bias.abs().max()) == pytest.approx(3e-3)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: make_router("liner", d_model=D, n_experts=N), InvalidProblem, "did you mean 'linear'"),
        (lambda: make_router("linear", d_model=D, n_experts=N, jiter=0.1), InvalidProblem, "did you mean 'jitter'"),
        (lambda: make_router("linear", d_model=D, n_experts=N, level="sequense"), InvalidProblem, "'sequence'"),
        (lambda: make_router("linear", d_model=D, n_experts=N, level="segment"), InvalidProblem, "segment_length"),
        (lambda: make_router("linear", d_model=D, n_experts=N, segment_length=4), InvalidProblem, "segment_length"),
        (lambda: make_router("linear", d_model=D, n_experts=N, norm=True), InvalidProblem, "no option 'norm'"),
        (lambda: make_router("stable", d_model=D, n_experts=N), InvalidProblem, "vocab_size"),
        (lambda: make_router("stable", d_model=D, n_experts=N, top_k=2, vocab_size=3), InvalidProblem, "one expert"),
        (lambda: make("linear", 6), InvalidProblem, "top_k is 6"),
        (lambda: make("linear", 2.0), InvalidType, "top_k"),
        (lambda: make("linear", softmax="both"), InvalidProblem, "softmax"),
        (lambda: make("linear", softmax="after", normalize=True), InvalidProblem, "changes nothing"),
        (lambda: make("linear", drop_order="score"), InvalidProblem, "capacity_factor"),
        (lambda: make("linear", capacity_factor=0.0), InvalidProblem, "capacity_factor"),
        (lambda: make("linear", noise=-1.0), InvalidProblem, "noise"),
        (lambda: make("noisy_topk", noise=1.0), InvalidProblem, "epsilon"),
        (lambda: make("cosine", temperature=0.0), InvalidProblem, "temperature"),
        (lambda: make("sigmoid", n_groups=2), InvalidProblem, "divide"),
        (lambda: make("sigmoid", 2, n_groups=5, top_groups=1), InvalidProblem, "fewer than"),
        (lambda: make("linear")(torch.zeros(2, 3, D + 1)), InvalidProblem, "hidden has shape"),
        (lambda: make("linear")(torch.zeros(2, D, dtype=torch.int64)), InvalidType, "hidden"),
        (lambda: make("linear")(torch.zeros(2, 3, D), token_mask=torch.ones(2, 3)), InvalidType, "token_mask"),
        (
            lambda: make("linear")(torch.zeros(2, 3, D), input_ids=torch.zeros(2, 4, dtype=torch.int64)),
            InvalidProblem,
            "input_ids has shape",
        ),
        (lambda: make("linear")(torch.zeros(2, 3, D), mask=None), InvalidProblem, "token_mask"),
    ],
)
def test_bad_settings_and_calls_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_the_distilled_embedding_has_the_length_asked_for():
    assert make("stable", distill_dim=7).token_embedding.weight.shape == (VOCAB, 7)


def test_a_model_without_routers_cannot_be_followed():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(InvalidProblem, match="nothing to follow"):
        follow(torch.optim.SGD(model.parameters(), lr=0.1), model)


def test_a_router_of_your_own_has_a_name_and_checked_options(hidden, monkeypatch):
    class Shifted(LinearRouter):
        def __init__(self, d_model, n_experts, top_k=None, *, shift=0.0, **gate):
            super().__init__(d_model, n_experts, top_k, **gate)
            self.shift = shift

        def score(self, hidden):
            return super().score(hidden) + self.shift * torch.arange(self.n_experts)

    monkeypatch.setitem(ROUTERS, "shifted", Shifted)
    plain, shifted = make("shifted"), make("shifted", shift=100.0, bias=False)
    assert (shifted(hidden).topk_index == torch.tensor([N - 1, N - 2])).all()
    assert (plain(hidden).topk_index != shifted(hidden).topk_index).any()
    with pytest.raises(InvalidProblem, match="did you mean 'shift'"):
        make("shifted", shfit=1.0)


def test_routers_share_one_base():
    assert all(isinstance(make(name), Router) for name in ROUTERS)
