"""Pictures: that they draw what they were given, and refuse what they cannot draw."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
torch = pytest.importorskip("torch", reason="the extra 'moe' is not installed")

from nashsolve import NoAgreement  # noqa: E402
from nashsolve.core.errors import InvalidProblem  # noqa: E402
from nashsolve.integrations.torch_moe import pictures, stability  # noqa: E402
from nashsolve.integrations.torch_moe.telemetry import Telemetry  # noqa: E402
from nashsolve.plotting import save  # noqa: E402
from nashsolve.plotting.figure import new_axes  # noqa: E402
from tests.asserts import assert_near  # noqa: E402

N, DEPTH, STEPS = 3, 2, 5


def make_history():
    rng = np.random.default_rng(0)
    records = []
    for step in range(STEPS):
        links = [
            {"layer": k, "group": "all", "players": N, "coefficients": rng.uniform(0.1, 1, N).tolist()}
            | {"alpha": None if step == 1 else [1.0, 2.0, 3.0], "base_move": float(rng.uniform(0.1, 1))}
            for k in range(DEPTH)
        ]
        records.append({"step": 3 * step, "chains": {"chain": links}, "routing": {}})
    return Telemetry(records)


def vectors():
    return np.random.default_rng(1).normal(size=(3, 6))


DRAWN = {
    "cosines": lambda ax: pictures.plot_cosines(np.eye(4), ax=ax),
    "hemisphere": lambda ax: pictures.plot_hemisphere(vectors(), ax=ax),
    "alpha map": lambda ax: pictures.plot_alpha_map(make_history(), ax=ax),
    "base updates": lambda ax: pictures.plot_base_updates(make_history(), ax=ax),
    "stability map": lambda ax: pictures.plot_stability_map(ax=ax),
}


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_every_picture_draws_alone_and_into_given_axes(name, tmp_path):
    options = {"projection": "3d"} if name == "hemisphere" else {}
    given = new_axes(None, (4, 3), **options)
    assert DRAWN[name](given) is given
    own = DRAWN[name](None)
    assert save(own, tmp_path / "picture.png", dpi=40).stat().st_size > 2000


def test_output_cosines_are_means_over_tokens():
    rng = np.random.default_rng(2)
    outputs = rng.normal(size=(3, 5, 4))
    outputs[1, 2] = 0  # this expert says nothing about this token
    found = pictures.output_cosines(torch.from_numpy(outputs).requires_grad_())
    for i in range(3):
        for j in range(3):
            tokens = [t for t in range(5) if t != 2 or 1 not in (i, j)]
            pairs = [
                outputs[i, t] @ outputs[j, t] / np.linalg.norm(outputs[i, t]) / np.linalg.norm(outputs[j, t])
                for t in tokens
            ]
            assert_near(found[i, j], np.mean(pairs), rtol=1e-12)
    outputs[1] = 0
    assert np.isnan(pictures.output_cosines(outputs)[1]).all()


def test_small_cosine_maps_show_their_numbers_and_large_ones_do_not():
    small = pictures.plot_cosines(np.array([[1.0, -0.25], [-0.25, 1.0]]), names=["a", "b"], title="layer 1")
    assert [text.get_text() for text in small.texts] == ["1.00", "-0.25", "-0.25", "1.00"]
    assert [label.get_text() for label in small.get_xticklabels()] == ["a", "b"]
    assert small.get_title() == "layer 1"
    assert not pictures.plot_cosines(np.eye(24)).texts


def test_alpha_map_has_a_row_for_every_expert_of_every_layer():
    history = make_history()
    (image,) = pictures.plot_alpha_map(history).get_images()
    values = image.get_array()
    assert values.shape == (DEPTH * N, STEPS)
    assert_near(values[N + 2], history.links("coefficients")[:, 1, 2], rtol=1e-12)
    (image,) = pictures.plot_alpha_map(history, key="alpha").get_images()
    assert image.get_array().mask[:, 1].all() and not image.get_array().mask[:, 0].any()


def test_base_updates_have_a_line_for_every_link():
    history = make_history()
    lines = pictures.plot_base_updates(history).get_lines()
    assert len(lines) == DEPTH
    assert_near(lines[1].get_ydata(), history.links("base_move")[:, 1], rtol=1e-12)


def test_the_hemisphere_tells_who_loses():
    opposed = np.array([[1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [-3.0, 0.0, 1.0]])
    ax = pictures.plot_hemisphere(opposed)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[0].startswith("Nash: least gain 0.") and labels[1].startswith("mean: least gain -0.")
    own = pictures.plot_hemisphere(opposed, rules={"first": opposed[0]})
    assert [text.get_text().split(":")[0] for text in own.get_legend().get_texts()] == ["first"]
    (nash, *_) = ax.get_lines()
    x, y, z = (float(c[0]) for c in nash.get_data_3d())
    assert abs(x) < 1e-6 and abs(y) < 1e-6 and z > 1  # the Nash step is the pole


def test_the_stability_map_names_radii_and_draws_published_regions_on_request():
    quaternion = (0.8, 0.3, 0.3, 0.3)
    with_published = pictures.plot_stability_map(momenta={"Q": quaternion})
    texts = [text.get_text() for text in with_published.get_legend().get_texts()]
    assert f"Q, radius {float(stability.spectral_radius(quaternion, 1.0)):.3f}" in texts
    assert any("published" in text for text in texts)
    plain = pictures.plot_stability_map(published=False)
    assert [text.get_text() for text in plain.get_legend().get_texts()] == ["stable (exact)"]
    (outline,) = [c for c in plain.collections if list(getattr(c, "levels", [])) == [0.0]]
    edge = np.concatenate([path.vertices for path in outline.get_paths()])
    assert np.abs(stability.stability_slack(edge[:, 0] + 1j * edge[:, 1], 1.0)).max() < 0.02


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: pictures.plot_cosines(np.ones((2, 3))), InvalidProblem, "square"),
        (lambda: pictures.plot_cosines(np.eye(2), names=["a"]), InvalidProblem, "names has 1"),
        (lambda: pictures.output_cosines(np.ones((2, 3))), InvalidProblem, "outputs has shape"),
        (lambda: pictures.plot_hemisphere(np.ones((2, 3))), InvalidProblem, "three experts"),
        (lambda: pictures.plot_hemisphere(np.eye(3)[[0, 1, 1]] + 0.5), InvalidProblem, "dependent"),
        (lambda: pictures.plot_hemisphere(np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0]])), NoAgreement, "No agreement"),
        (lambda: pictures.plot_hemisphere(np.eye(3), rules={"zero": np.zeros(3)}), InvalidProblem, "length zero"),
        (lambda: pictures.plot_alpha_map(make_history(), key="base_move"), InvalidProblem, "key"),
        (lambda: pictures.plot_stability_map(momenta=dict.fromkeys(range(8), 0.1)), InvalidProblem, "momenta has 8"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()
