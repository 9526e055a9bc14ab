// What the general path does in Python for an item that the iteration alone leaves open, for where nobody looks again:
// players of length zero, a diverged direction made into a proof that no agreement exists, and no numbers where there
// is no answer.
#pragma once
#include "solve.hpp"

namespace NASH_NAMESPACE {

constexpr int INVALID_INPUT = 7;

// Notes players of length zero, who can gain nothing, and gives them one, so that the others can be examined.
template <class T>
NASH_FN typename T::S note_silent(const T& team, int n, typename T::S* gram, typename T::S* silent) {
    team.each(n, [&](int i) {
        silent[i] = gram[(long)i * n + i] == 0 ? 1 : 0;
        if (silent[i] != 0) gram[(long)i * n + i] = 1;
    });
    return team.sum(n, [&](int i) { return silent[i]; });
}

// Whether the iteration ended where the squared margin is below the noise, as it asks itself.
template <class T>
NASH_FN bool diverged(const T& team, int n, const double* w, double radius, double noise, const double* scale,
                      const double* unit, const double* a) {
    const double total = team.sum(n, [&](int i) { return w[i]; });
    const double spread = team.sum(n, [&](int i) { return a[i] / scale[i] * root(unit[(long)i * n + i]); });
    const double natural = spread * (radius / root(total));
    return !(total >= noise * natural * natural);
}

// A diverged direction, sharpened: its projection on the null space of its own players, by inverse iteration with a
// shift at the rounding of the Gram. The certificate alone judges it, and then the direction itself.
template <class T>
NASH_RARE double sharpen(const T team, int n, const double* gram, const double* w, double radius, Settings how,
                       const double* scale, const double* unit, double* lines, double* numbers, Room<double> room) {
    double *h = room.square, *x = room.lines + 4 * n, *y = x + n, *inverse = y + n, *a = lines + ALPHA * n;
    const double shift = 4 * n * EPS + n * how.gram_error;
    const double top = team.most(n, [&](int i) { return a[i] / scale[i]; });
    team.each(n, [&](int i) {
        const double share = a[i] / scale[i] / top;
        y[i] = share > 1e-5 ? share : 0;
    });
    // An iteration in floats gives up earlier, and its direction still holds players who do not belong: those to whom the
    // projection leaves nothing go, and the others are projected once more.
    bool positive = false;
    for (int round = 0; round <= (how.rough ? 1 : 0) && !positive; ++round) {
        if (round) {
            const double most = team.most(n, [&](int i) { return x[i]; });
            team.each(n, [&](int i) { y[i] = x[i] > 1e-6 * most ? y[i] : 0; });
        }
        team.each(n, [&](int i) {
            for (int j = 0; j < i; ++j) h[(long)i * n + j] = y[i] > 0 && y[j] > 0 ? unit[(long)i * n + j] : 0;
            h[(long)i * n + i] = (y[i] > 0 ? unit[(long)i * n + i] : 1) + shift;
            x[i] = y[i];
        });
        const bool sound = team.factor(h, inverse, n);
        for (int k = 0; k < 3; ++k) {
            team.solve(h, inverse, x, n);
            team.each(n, [&](int i) { x[i] = x[i] * shift; });
        }
        positive = sound && team.least(n, [&](int i) { return y[i] > 0 ? x[i] : 1; }) > 0;
    }
    double code = AMBIGUOUS;
    for (int k = positive ? 0 : 1; k < 2 && code != NO_AGREEMENT; ++k) {
        const double* direction = k == 0 ? x : y;
        team.each(n, [&](int i) { a[i] = direction[i] * scale[i]; });
        code = certify(team, n, gram, w, (const double*)0, radius, how.gram_error, how.rtol, (double)DIVERGED, lines,
                       numbers, room, how.rough);
    }
    return code;
}

// Numbers of an item in which `count` players have length zero: they alone block every agreement.
template <class T>
NASH_FN void tell_silent(const T& team, int n, const double* silent, double count, double* lines, double* numbers) {
    team.each(n, [&](int i) {
        lines[BLOCKING * n + i] = silent[i] / count;
        lines[BOUND * n + i] = infinity();
    });
    team.each(NUMBERS, [&](int k) { numbers[k] = k == MARGIN || k == MARGIN_LOWER ? 0 : infinity(); });
}

// No numbers where there is no answer; where there is no problem, none at all.
template <class T> NASH_FN void blank(const T& team, int n, double code, double* lines, double* numbers) {
    const bool invalid = code == INVALID_INPUT;
    team.each(n, [&](int i) {
        for (int k = 0; k < LINES; ++k)
            if (invalid || (k != BOUND && k != BLOCKING)) lines[k * n + i] = not_a_number();
    });
    team.each(NUMBERS, [&](int k) {
        if (invalid || k == MULTIPLIER) numbers[k] = not_a_number();
    });
}

// `solve_from` with its last word, where `last` asks for it; silent: room for n. At zero disagreement a player of length
// zero blocks every agreement; elsewhere one whose disagreement is not below zero. An inactive ball, which players of
// independent vectors cannot meet, is left unanswered: NUMERICAL_ERROR.
template <bool PLACED, bool ROUGH, class T>
NASH_FN double settle(const T& team, int n, double* gram, const double* w, const double* d, double* unit_d,
                      double radius, bool natural, bool warm, Settings how, bool last, double* scale, double* unit,
                      double* lines, double* numbers, double* silent, double& n_iter, Room<double> room) {
    how.rough = ROUGH;
    double count = last ? note_silent(team, n, gram, silent) : 0;
    double code = solve_from<PLACED, ROUGH>(team, n, gram, w, d, unit_d, radius, natural, warm, how, scale, unit,
                                            lines, numbers, n_iter, room, last && count > 0 ? silent : nullptr);
    if (!last) return code;
    if (PLACED && count > 0) {
        team.each(n, [&](int i) {
            if (!(d[i] >= 0)) silent[i] = 0;
        });
        count = team.sum(n, [&](int i) { return silent[i]; });
    }
    const double noise = (ROUGH ? blur(n) : n * EPS) + how.gram_error;
    if (natural) radius = root(team.sum(n, [&](int i) { return w[i]; }));
    const bool odd = PLACED && team.sum(n, [&](int i) { return size_of(d[i]) < 1e300 ? 0.0 : 1.0; }) > 0;
    if (code == LEFT_TO_PYTHON || odd) {
        code = INVALID_INPUT;
    } else if (count > 0) {
        code = NO_AGREEMENT;
        tell_silent(team, n, silent, count, lines, numbers);
    } else if (!PLACED && code > SOLVED_INACCURATE && diverged(team, n, w, radius, noise, scale, unit, lines)) {
        code = sharpen(team, n, gram, w, radius, how, scale, unit, lines, numbers, room);
    }
    if (code == NO_AGREEMENT || code == INVALID_INPUT) blank(team, n, code, lines, numbers);
    return code;
}

}  // namespace NASH_NAMESPACE
