"""Balance losses against sums written out by hand, capacity against a loop, the loss-free bias and MaxVio."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'moe' is not installed")

from nashsolve.core.errors import InvalidProblem  # noqa: E402
from nashsolve.integrations.torch_moe import balance  # noqa: E402
from nashsolve.integrations.torch_moe.routers import RouterOutput, make_router  # noqa: E402
from tests.asserts import assert_near  # noqa: E402
from tests.tolerances import tolerance  # noqa: E402

SUM = tolerance("float64", "sum")
ROWS, N, K = 12, 5, 3


@pytest.fixture
def case():
    """Logits, noisy logits, a mask, and the choices of the noisy ones."""
    rng = np.random.default_rng(7)
    logits = rng.normal(size=(ROWS, N))
    noisy = logits + 0.3 * rng.normal(size=(ROWS, N))
    index = np.argsort(-noisy, axis=1)[:, :K].copy()
    mask = np.array([True] * 4 + [True, True, False, False] + [True, False, True, True])
    return logits, noisy, index, mask


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def phi(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def cv2(x):
    return np.var(x, ddof=1) / np.mean(x) ** 2


def rows_of(mask, masked):
    return [t for t in range(ROWS) if mask[t]] if masked else list(range(ROWS))


def arguments(mask, masked):
    return torch.from_numpy(mask) if masked else None


both = pytest.mark.parametrize("masked", [False, True])


@both
@pytest.mark.parametrize("every_choice", [False, True])
def test_switch(case, masked, every_choice):
    logits, _, index, mask = case
    p, rows = softmax(logits), rows_of(mask, masked)
    wanted = 0.0
    for e in range(N):
        hits = sum((e in index[t]) if every_choice else (index[t, 0] == e) for t in rows)
        wanted += N * hits / len(rows) * sum(p[t, e] for t in rows) / len(rows)
    found = balance.switch_loss(
        torch.from_numpy(p), torch.from_numpy(index), arguments(mask, masked), every_choice=every_choice
    )
    assert_near(found, wanted, rtol=1e-7)


def test_switch_is_one_at_perfect_balance():
    probs = torch.full((4, 4), 0.25, dtype=torch.float64)
    assert_near(balance.switch_loss(probs, torch.arange(4)[:, None]), 1.0, rtol=SUM)


@both
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_fastmoe(case, masked, temperature):
    logits, _, index, mask = case
    p, rows = softmax(logits / temperature), rows_of(mask, masked)
    choices = K * len(rows)
    wanted = sum(
        N * sum(e in index[t] for t in rows) / choices * sum(p[t, e] for t in rows) / choices for e in range(N)
    )
    found = balance.fastmoe_loss(
        torch.from_numpy(logits), torch.from_numpy(index), arguments(mask, masked), temperature=temperature
    )
    assert_near(found, wanted, rtol=1e-7)


@both
def test_z(case, masked):
    logits, _, _, mask = case
    rows = rows_of(mask, masked)
    wanted = sum(math.log(sum(math.exp(z) for z in logits[t])) ** 2 for t in rows) / len(rows)
    assert_near(balance.z_loss(torch.from_numpy(logits), arguments(mask, masked)), wanted, rtol=SUM)


@both
def test_importance(case, masked):
    logits, _, index, mask = case
    p = softmax(logits)
    gates = np.zeros_like(p)
    for t in range(ROWS):
        gates[t, index[t]] = p[t, index[t]]
    wanted = cv2([sum(gates[t, e] for t in rows_of(mask, masked)) for e in range(N)])
    assert_near(balance.importance_loss(torch.from_numpy(gates), arguments(mask, masked)), wanted, rtol=1e-8)


@both
def test_load_is_the_chance_under_fresh_noise(case, masked):
    logits, noisy, _, mask = case
    std = 0.2 + 0.1 * np.arange(N)
    load = np.zeros(N)
    for t in rows_of(mask, masked):
        for e in range(N):
            others = sorted((noisy[t, j] for j in range(N) if j != e), reverse=True)
            load[e] += phi((logits[t, e] - others[K - 1]) / std[e])
    tensors = [torch.from_numpy(x) for x in (logits, noisy, np.broadcast_to(std, (ROWS, N)).copy())]
    assert_near(balance.load_loss(*tensors, K, arguments(mask, masked)), cv2(load), rtol=1e-8)
    assert float(balance.load_loss(*tensors, N)) == 0


@both
@pytest.mark.parametrize("literal", [False, True])
def test_load_importance(case, masked, literal):
    logits, noisy, index, mask = case
    p, rows, std = softmax(logits), rows_of(mask, masked), 0.25
    importance = [sum(p[t, e] for t in rows) for e in range(N)]
    load = [sum(phi(((p if literal else logits)[t, e] - noisy[t, index[t, -1]]) / std) for t in rows) for e in range(N)]
    found = balance.load_importance_loss(
        torch.from_numpy(p),
        torch.from_numpy(logits),
        torch.from_numpy(noisy),
        torch.tensor(std),
        torch.from_numpy(index),
        arguments(mask, masked),
        literal=literal,
    )
    assert_near(found, (cv2(importance) + cv2(load)) / 2, rtol=1e-6)


@both
def test_sequence(case, masked):
    logits, _, index, mask = case
    p, total = softmax(logits), 0.0
    for b in range(3):
        rows = [t for t in range(4 * b, 4 * b + 4) if mask[t] or not masked]
        for e in range(N):
            f = N / (K * len(rows)) * sum(e in index[t] for t in rows)
            total += f * sum(p[t, e] for t in rows) / len(rows) / 3
    found = balance.sequence_loss(torch.from_numpy(p), torch.from_numpy(index), 3, arguments(mask, masked))
    assert_near(found, total, rtol=1e-7)
    with pytest.raises(InvalidProblem, match="n_sequences"):
        balance.sequence_loss(torch.from_numpy(p), torch.from_numpy(index), 5)


def test_masked_rows_may_hold_nan(case):
    logits, _, index, mask = case
    wanted = balance.z_loss(torch.from_numpy(logits), torch.from_numpy(mask))
    logits[~mask] = np.nan
    tensors = torch.from_numpy(logits), torch.from_numpy(index), torch.from_numpy(mask)
    assert_near(balance.z_loss(tensors[0], tensors[2]), wanted, rtol=SUM)
    assert torch.isfinite(balance.fastmoe_loss(*tensors))


def test_counts_max_vio_and_the_bias():
    index = torch.tensor([[0, 1], [0, 2], [0, 1], [3, 0]])
    counts = balance.expert_counts(index, 4)
    assert counts.tolist() == [4, 2, 1, 1]
    assert balance.expert_counts(index, 4, torch.tensor([True, True, False, False])).tolist() == [2, 1, 1, 0]
    assert float(balance.max_vio(counts)) == 1.0
    assert balance.max_vio(torch.stack([counts, torch.ones(4)])).tolist() == [1.0, 0.0]
    assert balance.max_vio(counts.long()).dtype == torch.get_default_dtype()
    moved = balance.bias_update(torch.zeros(4), counts, rate=0.5)
    assert moved.tolist() == [-0.5, 0.0, 0.5, 0.5]
    with pytest.raises(InvalidProblem, match="negative"):
        balance.max_vio(torch.tensor([1.0, -1.0]))


def slow_keep(index, capacity, priority):
    """Serve choices one by one: first choices before second ones, rows by priority."""
    order = sorted(range(len(index)), key=lambda t: -priority[t]) if priority is not None else range(len(index))
    kept, load = np.zeros(index.shape, bool), {}
    for j in range(index.shape[1]):
        for t in order:
            load[index[t, j]] = load.get(index[t, j], 0) + 1
            kept[t, j] = load[index[t, j]] <= capacity
    return kept


@pytest.mark.parametrize("capacity", [0, 1, 4, 7, 99])
@pytest.mark.parametrize("ordered", [False, True])
def test_capacity_serves_in_turn(capacity, ordered):
    rng = np.random.default_rng(3)
    index = np.stack([rng.permutation(4)[:2] for _ in range(25)])
    priority = rng.normal(size=25) if ordered else None
    found = balance.keep_within_capacity(
        torch.from_numpy(index), 4, capacity, None if priority is None else torch.from_numpy(priority)
    )
    assert (found.numpy() == slow_keep(index, capacity, priority)).all()


@pytest.mark.parametrize(
    ("rows", "n", "k", "factor", "wanted"), [(10, 4, 1, 1.25, 3), (64, 8, 2, 1.0, 16), (7, 4, 2, 0.6, 2)]
)
def test_capacity_formula(rows, n, k, factor, wanted):
    assert balance.expert_capacity(rows, n, k, factor) == k * math.floor(factor * math.ceil(rows / n)) == wanted


def test_named_losses_are_those_of_the_functions_times_their_coefficients():
    torch.manual_seed(0)
    router = make_router("noisy_topk", d_model=6, n_experts=4, top_k=2)
    torch.nn.init.normal_(router.gate_weight)
    output = router(torch.randn(3, 5, 6), token_mask=torch.rand(3, 5) > 0.2)
    found = balance.balance_losses(output, {name: 2.0 for name in balance.BALANCE_LOSSES})
    mask = output.row_mask
    wanted = {
        "switch": balance.switch_loss(output.probs, output.topk_index, mask),
        "switch_every_choice": balance.switch_loss(output.probs, output.topk_index, mask, every_choice=True),
        "fastmoe": balance.fastmoe_loss(output.logits, output.topk_index, mask),
        "z": balance.z_loss(output.logits, mask),
        "importance": balance.importance_loss(output.dense(), mask),
        "load": balance.load_loss(output.logits, output.noisy_logits, output.noise_std, 2, mask),
        "sequence": balance.sequence_loss(output.probs, output.topk_index, 3, mask),
    }
    for name, value in wanted.items():
        assert_near(found[name].detach(), 2 * value.detach(), rtol=1e-6)
    assert found["load_importance"] != found["load_importance_literal"]
    assert all(value.requires_grad for value in found.values())


@pytest.mark.parametrize(
    ("coefficients", "match"),
    [
        ({"swich": 0.1}, "did you mean 'switch'"),
        ({"z": -1.0}, "z.* is -1"),
        ({"z": float("nan")}, "finite"),
        ({"load": 0.1}, "router with noise"),
        ({"sequence": 0.1}, r"\(batch, length, d\)"),
    ],
)
def test_losses_that_cannot_be_given_are_refused(coefficients, match):
    output = make_router("linear", d_model=4, n_experts=3, top_k=1)(torch.randn(6, 4))
    assert isinstance(output, RouterOutput)
    with pytest.raises(InvalidProblem, match=match):
        balance.balance_losses(output, coefficients)
