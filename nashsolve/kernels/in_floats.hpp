// The iteration of one problem in the numbers of its team, and the same one in floats: twice as many problems in a vector
// register, and what a consumer's GPU is fast at. What floats lose is for the certificate, in doubles, to say.
#pragma once
#include "path.hpp"

namespace NASH_NAMESPACE {

constexpr double LEFT_TO_PYTHON = -1;  // a finding that the caller's general path puts into words

struct Settings {
    double gram_error, rtol;
    int max_iter;
    bool definite;  // whether to prove the Gram positive semidefinite, at the price of one factorisation
    double slack = 1;  // how far below zero its eigenvalues may lie, in units of rounding; 2 where nobody looks again
    bool rough = false;  // whether to iterate, and to prove that, in floats
};

// a: in, a start; out, the answer for the unit Gram. unit_d: disagreement of its players for a ball of radius one, read
// only where PLACED. margin: the squared one at which to give up. Returns one of Stop.
template <bool PLACED, class T>
NASH_FN typename T::S iterate(const T& team, int n, const typename T::S* unit, const typename T::S* w,
                              const typename T::S* unit_d, typename T::S* a, double margin, int max_iter,
                              Room<typename T::S> room, typename T::S& n_iter) {
    using S = typename T::S;
    using K = Kind<S>;
    using R = typename K::real;
    if constexpr (!PLACED) {
        return start_and_iterate(team, n, unit, w, a, margin, max_iter, room, n_iter);
    } else {
        // A Cholesky factor of the unit Gram, raised by its rounding so that a singular one has a factor too.
        S* lower = room.lower;
        team.each(n, [&](int i) {
            for (int j = 0; j < i; ++j) lower[(long)i * n + j] = unit[(long)i * n + j];
            const S own = unit[(long)i * n + i];
            lower[(long)i * n + i] = select(own > 0, own * (1 + 4 * n * Grain<R>::EPS), K::all(1));
        });
        const typename K::mask whole = team.factor(lower, room.lines, n);
        team.each(n, [&](int i) {
            const typename K::mask silent = unit[(long)i * n + i] == R(0);
            lower[(long)i * n + i] = select(silent, K::all(0), R(1) / room.lines[i]);
        });
        S mu;
        const S stop = follow(team, n, lower, unit_d, w, a, mu, max_iter, room, n_iter);
        polish(team, n, unit, unit_d, w, a, mu, room);
        return select(whole, stop, K::all(BROKEN));
    }
}

// The squared margin of n players at which floats give up: they stall before they reach their rounding.
NASH_FN double blur(int n) { return 4 * n * (double)Grain<float>::EPS; }

constexpr long floats_of(long n, bool placed) { return (placed ? 3 : 2) * n * n + ((placed ? PATH_LINES : 8) + 3) * n; }

// The same in floats, in room.spare, with weights of mean one. good: whether the Gram is one so far; where how.definite,
// its Cholesky factor is taken in floats.
template <bool PLACED, class T>
NASH_LARGE typename T::S iterate_in_floats(const T& team, int n, const typename T::S* unit, const typename T::S* w,
                                        const typename T::S* unit_d, typename T::S weight, typename T::S* a,
                                        const Settings& how, typename Kind<typename T::S>::mask& good,
                                        Room<typename T::S> room, typename T::S& n_iter) {
    using S = typename T::S;
    using N = Narrow<S>;
    using F = typename N::type;
    using K = Kind<F>;
    const auto inner = team.narrow();
    F *b = (F*)room.spare, *power = b + (long)n * n, *x = power + n, *place = x + n;
    Room<F> own{};
    own.square = place + n, own.lines = own.square + (long)n * n;
    own.lower = own.lines + (PLACED ? PATH_LINES : 8) * n;
    const S mean = weight / (double)n;
    team.each(n, [&](int i) {
        for (int j = 0; j < n; ++j) b[(long)i * n + j] = N::of(unit[(long)i * n + j]);
        power[i] = N::of(w[i] / mean), x[i] = N::of(a[i]);
        if (PLACED) place[i] = N::of(unit_d[i]);
    });
    if (how.definite) {
        const float shift = (float)(how.slack * (16 * n * (double)Grain<float>::EPS + 4 * n * how.gram_error));
        inner.each(n, [&](int i) {
            for (int j = 0; j < i; ++j) own.square[(long)i * n + j] = b[(long)i * n + j];
            own.square[(long)i * n + i] = b[(long)i * n + i] + shift;
        });
        const typename K::mask sound = inner.factor(own.square, own.lines, n);
        good = good & (N::back(select(sound, K::all(1), K::all(0))) > 0);
    }
    const double margin = blur(n) + how.gram_error;
    F used;
    const F stop = iterate<PLACED>(inner, n, b, power, place, x, margin, how.max_iter, own, used);
    const S by = PLACED ? mean : root(mean);
    team.each(n, [&](int i) { a[i] = N::back(x[i]) * by; });
    n_iter = N::back(used);
    return N::back(stop);
}

}  // namespace NASH_NAMESPACE
