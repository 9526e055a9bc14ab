"""Solutions as text, HTML, LaTeX and DataFrames."""

from __future__ import annotations

import sys

import pytest

import nashsolve as ns

TABLE = ns.OutcomeBargainingProblem([[4, 0], [3, 3], [0, 4]], names=["ann & co", "<bob>_1"])


def test_text_names_concept_players_and_proof():
    text = repr(ns.solve(TABLE, concept="egalitarian"))
    assert text.startswith("egalitarian solution - SOLVED") and "ann & co" in text and "gap" in text
    assert "nan" not in text
    blocked = repr(ns.solve(ns.OutcomeBargainingProblem([[1, -1]]), on_failure="return"))
    assert "certificate y" in blocked and "inf" not in blocked.splitlines()[-2]


def test_latex_escapes_and_rounds():
    text = ns.solve(TABLE).to_latex(digits=2)
    assert r"ann \& co & 3.00" in text and r"<bob>\_1" in text
    assert text.startswith(r"\begin{tabular}{lrrrr}") and text.endswith(r"\end{tabular}")
    negative = ns.OutcomeBargainingProblem([[1.0, -1.0]], disagreement=[-2, -2])
    assert "$-1.0000$" in ns.solve(negative).to_latex()


def test_html_escapes():
    html = ns.solve(TABLE)._repr_html_()
    assert "&lt;bob&gt;_1" in html and "<bob>" not in html and "<b>SOLVED</b>" in html
    batch = ns.solve(ns.BargainingProblem(vectors=[[[1.0, 0], [0, 1.0]]] * 2))
    assert batch._repr_html_().startswith("<pre>")


def test_long_tables_are_cut_in_html_but_not_in_frames():
    many = ns.solve(ns.split(1.0, 30))
    assert many._repr_html_().count("<tr>") == 1 + 10 + 1 + 3
    assert len(many.to_frame()) == 30


def test_frames_of_ball_problems_and_of_no_agreement():
    frame = ns.solve(ns.BargainingProblem(vectors=[[1.0, 0], [0, 2.0]], names=["a", "b"])).to_frame()
    assert list(frame.index) == ["a", "b"] and frame["gain"].min() > 0
    blocked = ns.solve(ns.BargainingProblem(vectors=[[1.0], [-1.0]]), on_failure="return")
    assert blocked.to_frame()["certificate y"].tolist() == [0.5, 0.5]
    batch = ns.solve(ns.BargainingProblem(vectors=[[[1.0, 0], [0, 1.0]]] * 2))
    with pytest.raises(ns.InvalidProblem, match="pick an item"):
        batch.to_frame()


def test_without_pandas_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ns.MissingExtra, match=r"nashsolve\[frame\]"):
        ns.solve(TABLE).to_frame()


def test_short_names():
    solution = ns.solve(TABLE)
    assert (solution.x == solution.point).all() and solution.duals is None
    priced = ns.solve(ns.network([[1, 1]], 1.0))
    assert priced.duals["matrix"] == pytest.approx([2.0])
