// Primal-dual Newton with corrector and radial rescaling at zero disagreement, on an equilibrated Gram.
// The same steps as nashsolve/backends/newton.py, where they are explained.
#pragma once
#include "teams.hpp"

namespace NASH_NAMESPACE {

constexpr double FRACTION = 0.9;

enum Stop { CONVERGED = 0, OUT_OF_ITERATIONS = 1, BROKEN = 2, DIVERGED = 3 };

// Room for one problem: `square` n * n scalars, `lines` 8 * n, or 18 * n with a disagreement point, which also needs
// `lower`, n * n. An iteration in floats runs in `spare`, which may be the room of the others.
template <class S> struct Room {
    S* square;
    S* lines;
    S* lower;
    S* spare;
};

// a: in, a positive start; out, the answer; lanes that are not live keep theirs. margin: the squared one at which to give
// up. Returns one of Stop per lane, as a scalar; n_iter likewise.
template <class T>
NASH_LARGE typename T::S newton(const T& team, int n, const typename T::S* b, const typename T::S* w, typename T::S* a,
                             double margin, int max_iter, typename Kind<typename T::S>::mask live,
                             Room<typename T::S> room, typename T::S& n_iter) {
    using S = typename T::S;
    using K = Kind<S>;
    using R = typename K::real;
    using G = Grain<R>;
    const R noise = (R)margin, far = -(R)FRACTION;
    S *h = room.square, *inverse = room.lines, *u = inverse + n, *r = u + n, *da = r + n, *du = da + n, *ba = du + n,
      *x = ba + n, *au = x + n;
    const S total = team.sum(n, [&](int i) { return w[i]; });
    const S least = team.least(n, [&](int i) { return w[i]; });
    S best = K::all(G::VAST), stalled = K::all(0), stop = K::all(OUT_OF_ITERATIONS);
    n_iter = K::all(0);
    auto to_ray = [&](typename K::mask where) {
        team.product(b, a, ba, n);
        const S q = team.sum(n, [&](int i) { return a[i] * ba[i]; });
        const S factor = root(total / q);
        const typename K::mask good = where & (factor > 0) & (factor < G::VAST);
        const S by = select(good, factor, K::all(1));
        team.each(n, [&](int i) { a[i] = a[i] * by, ba[i] = ba[i] * by; });
    };
    to_ray(live);
    team.each(n, [&](int i) { u[i] = w[i] / a[i]; });
    for (int iteration = 0;; ++iteration) {
        team.each(n, [&](int i) {
            r[i] = fused(-a[i], ba[i], w[i]), au[i] = a[i] * u[i], da[i] = r[i];
            for (int j = 0; j < i; ++j) h[(long)i * n + j] = (a[i] * b[(long)i * n + j]) * a[j];
            h[(long)i * n + i] = ((a[i] * b[(long)i * n + i]) * a[i] + au[i]) * (1 + 4 * G::EPS);
        });
        const typename K::mask sound = team.factor(h, inverse, n);
        team.solve(h, inverse, da, n);
        team.each(n, [&](int i) { du[i] = w[i] / au[i] - R(1) - da[i]; });
        const S power = team.sum(n, [&](int i) { return r[i] * da[i]; });
        S size = larger(root(larger(power, K::all(0)) / least), team.most(n, [&](int i) { return size_of(da[i]); }));
        const S spread = team.sum(n, [&](int i) { return root(b[(long)i * n + i]) * a[i]; });
        stalled = select((size < G::STALL) & (size > R(0.3) * best), stalled + R(1), K::all(0));
        best = smaller(best, size);
        const typename K::mask broken = (!sound) | (!(power == power)) | (!(size < G::VAST));
        const typename K::mask finished = (size <= G::TINY) & !broken;
        const typename K::mask diverged = spread * spread * noise > total;
        const typename K::mask last = live & finished;
        team.each(n, [&](int i) { a[i] = select(last, a[i] * (R(1) + da[i]), a[i]); });
        stop = select(live & broken, K::all(BROKEN), stop);
        stop = select(live & !broken & diverged, K::all(DIVERGED), stop);
        stop = select(live & !broken & (finished | (stalled >= R(2))), K::all(CONVERGED), stop);
        live = live & !(broken | finished | diverged | (stalled >= R(2)));
        if (!team.any_of(live) || iteration == max_iter) return stop;
        n_iter = select(live, n_iter + R(1), n_iter);
        S low = team.least(n, [&](int i) { return smaller(da[i], du[i]); });
        team.each(n, [&](int i) { x[i] = fused(-(au[i] * da[i]), du[i], r[i]); });
        team.solve(h, inverse, x, n);
        auto du2 = [&](int i) { return w[i] / au[i] - R(1) - da[i] * du[i] - x[i]; };
        const S low2 = team.least(n, [&](int i) { return smaller(x[i], du2(i)); });
        const typename K::mask better = (low2 >= low) | (low2 >= far);
        low = select(better, low2, low);
        const S t = select(low < far, far / low, K::all(1));
        team.each(n, [&](int i) {
            const S second = du2(i);
            u[i] = select(live, u[i] * (R(1) + t * select(better, second, du[i])), u[i]);
            a[i] = select(live, a[i] * (R(1) + t * select(better, x[i], da[i])), a[i]);
        });
        to_ray(live);
    }
}

// Coordinate sweeps, each player in turn the positive root of b_ii a^2 + s a = w: for many players, where a sweep costs
// a small part of a factorisation, they start Newton well and finish easy problems alone [spinu2013, griveau2013].
constexpr int FEWEST_TO_SWEEP = 9;

// Players i .. i + G in turn: their row products are taken together, and corrected for the moves within the group.
// Without EXACT a Newton step stands for the root, to spare the wait for it; for small moves they agree.
template <int G, bool EXACT, class T>
NASH_FN typename T::S visit(const T& team, int n, const typename T::S* b, const typename T::S* w, typename T::S* a,
                            typename Kind<typename T::S>::mask live, int i) {
    using S = typename T::S;
    using R = typename Kind<S>::real;
    S s[G], moved[G], change = Kind<S>::all(0);
    team.template dots<G>(b + (long)i * n, a, s, n);
    for (int k = 0; k < G; ++k) {
        const S* row = b + (long)(i + k) * n;
        S rest = fused(-row[i + k], a[i + k], s[k]);
        for (int m = 0; m < k; ++m) rest = fused(row[i + m], moved[m], rest);
        const S own = row[i + k], old = a[i + k];
        S next;
        if (EXACT) {
            const S wide = root(rest * rest + R(4) * own * w[i + k]);
            const typename Kind<S>::mask up = rest > 0;
            next = select(up, R(2) * w[i + k], wide - rest) / select(up, rest + wide, R(2) * own);
        } else {
            next = fused(own * old, old, w[i + k]) / fused(own + own, old, rest);
        }
        next = select(live, next, old);
        moved[k] = next - a[i + k];
        change = larger(change, size_of(moved[k]) / next);
        a[i + k] = next;
    }
    return change;
}

template <bool EXACT, class T>
NASH_FN typename T::S all_in_turn(const T& team, int n, const typename T::S* b, const typename T::S* w,
                                  typename T::S* a, typename Kind<typename T::S>::mask live) {
    typename T::S change = Kind<typename T::S>::all(0);
    int i = 0;
    for (; i + T::GROUP <= n; i += T::GROUP) change = larger(change, visit<T::GROUP, EXACT>(team, n, b, w, a, live, i));
    for (; i < n; ++i) change = larger(change, visit<1, EXACT>(team, n, b, w, a, live, i));
    return change;
}

// Returns where the sweeps finished; elsewhere they were not worth going on with.
template <class T>
NASH_LARGE typename Kind<typename T::S>::mask sweep(const T& team, int n, const typename T::S* b, const typename T::S* w,
                                                 typename T::S* a, typename T::S& n_iter) {
    using S = typename T::S;
    using K = Kind<S>;
    using R = typename K::real;
    using G = Grain<R>;
    const double budget = 3.5 * (n / 12.0 + 5);
    S before = K::all(G::VAST);
    typename K::mask live = K::yes(true), finished = K::yes(false);
    n_iter = K::all(0);
    for (int count = 1; count <= 2 * budget; ++count) {
        const bool small = T::GROUP > 1 && !team.any_of(before > R(0.01));
        const S change = small ? all_in_turn<false>(team, n, b, w, a, live) : all_in_turn<true>(team, n, b, w, a, live);
        n_iter = select(live, K::all(count), n_iter);
        const S rate = change / before;
        typename K::mask done = change <= G::STILL, hopeful = K::yes(true);
        if (count > 1) {
            done = done | ((rate < R(0.5)) & (change * rate <= G::GOAL * (R(1) - rate)) & K::yes(count > 2));
            hopeful = (rate < R(0.9)) & (logarithm(G::GOAL / change) > (R)budget * logarithm(rate));
        }
        finished = finished | (live & done);
        live = live & hopeful & (!done);
        if (!team.any_of(live)) break;
        before = change;
    }
    return finished;
}

template <class T>
NASH_FN typename T::S sweep_and_iterate(const T& team, int n, const typename T::S* b, const typename T::S* w,
                                        typename T::S* a, double noise, int max_iter, Room<typename T::S> room,
                                        typename T::S& n_iter) {
    using S = typename T::S;
    using K = Kind<S>;
    const S total = team.sum(n, [&](int i) { return w[i]; });
    team.product(b, a, room.lines, n);
    const S by = root(total / team.dot(a, room.lines, n));
    const typename K::mask good = (by > 0) & (by < Grain<typename K::real>::VAST);
    team.each(n, [&](int i) { a[i] = select(good, a[i] * by, a[i]); });
    S sweeps;
    const typename K::mask finished = sweep(team, n, b, w, a, sweeps);
    S stop = K::all(CONVERGED);
    n_iter = K::all(0);
    if (team.any_of(!finished)) stop = newton(team, n, b, w, a, noise, max_iter, !finished, room, n_iter);
    n_iter = n_iter + sweeps;
    return select(finished, K::all(CONVERGED), stop);
}

template <class T>
NASH_FN typename T::S start_and_iterate(const T& team, int n, const typename T::S* b, const typename T::S* w,
                                        typename T::S* a, double noise, int max_iter, Room<typename T::S> room,
                                        typename T::S& n_iter) {
    using S = typename T::S;
    using K = Kind<S>;
    if constexpr (T::GROUP == 0) {
        return newton(team, n, b, w, a, noise, max_iter, K::yes(true), room, n_iter);
    } else {
        if (n < FEWEST_TO_SWEEP || max_iter < 3)
            return newton(team, n, b, w, a, noise, max_iter, K::yes(true), room, n_iter);
        return sweep_and_iterate(team, n, b, w, a, noise, max_iter, room, n_iter);
    }
}

}  // namespace NASH_NAMESPACE
