// A disagreement point other than zero: Mehrotra's predictor and corrector along the central path of
// max sum w log(L z - d), |z| <= 1, with L L' the unit Gram, then Newton on the conditions of the active ball.
// The same steps as nashsolve/backends/disagreement.py. An inactive ball and a problem without agreement are not
// finished here: the caller's general path knows what to do with them.
#pragma once
#include "newton.hpp"

namespace NASH_NAMESPACE {

constexpr int PATH_LINES = 18;  // of Room, 9 for the point and 3 for each direction

// One Newton direction of the path: dz, ds, dbeta (n each) and the scalars dt, dmu.
template <class S> struct Move {
    S *dz, *ds, *db, dt, dm;
};

template <class T> struct Path {
    using S = typename T::S;
    using K = Kind<S>;
    using M = typename K::mask;
    using R = typename K::real;
    using G = Grain<R>;
    const T& team;
    int n;
    const S *lower, *d, *w;  // lower: row-major, upper triangle not read
    S *z, *s, *beta, *rp, *rz, *rc, *pull, *work, *inverse, *inner, mu, t, rt, pivot;
    Move<S> predictor, plain, curved;

    NASH_FN Path(const T& who, int players, const S* l, const S* disagreement, const S* weights, Room<S> room)
        : team(who), n(players), lower(l), d(disagreement), w(weights) {
        S** arrays[] = {&z, &s, &beta, &rp, &rz, &rc, &pull, &work, &inverse};
        S* next = room.lines;
        for (S** array : arrays) *array = next, next += n;
        Move<S>* moves[] = {&predictor, &plain, &curved};
        for (Move<S>* move : moves) move->dz = next, move->ds = next + n, move->db = next + 2 * n, next += 3 * n;
        inner = room.square;
    }
    NASH_FN S row(int i, const S* x) const {  // (L x)_i
        S total = lower[(long)i * n] * x[0];
        for (int k = 1; k <= i; ++k) total = fused(lower[(long)i * n + k], x[k], total);
        return total;
    }
    NASH_FN S column(int k, const S* x) const {  // (L' x)_k
        S total = lower[(long)k * n + k] * x[k];
        for (int i = k + 1; i < n; ++i) total = fused(lower[(long)i * n + k], x[i], total);
        return total;
    }
    // Residuals of the optimality conditions; returns the largest, relative, and whether beta proves no agreement.
    NASH_RARE S residuals(S total, S& spread, M& blocked) {
        team.each(n, [&](int i) { rp[i] = row(i, z) - d[i] - s[i], rc[i] = w[i] - beta[i] * s[i]; });
        rt = R(0.5) * (R(1) - team.sum(n, [&](int i) { return z[i] * z[i]; })) - t;
        team.each(n, [&](int k) { work[k] = column(k, beta); });
        team.each(n, [&](int k) { rz[k] = work[k] - mu * z[k]; });
        spread = team.sum(n, [&](int i) {
            return beta[i] * (root(team_norm(i)) + size_of(d[i]));
        });
        const S length = root(team.sum(n, [&](int k) { return work[k] * work[k]; }));
        const S value = length - team.sum(n, [&](int i) { return beta[i] * d[i]; });
        blocked = value < -G::OPPOSED * spread;
        S error = team.most(n, [&](int i) { return larger(size_of(rc[i]) / w[i], size_of(rp[i]) / s[i]); });
        error = larger(error, root(team.sum(n, [&](int k) { return rz[k] * rz[k]; })) / spread);
        return larger(error, larger(size_of(rt), mu * t / total));
    }
    NASH_FN S team_norm(int i) const {
        S total = lower[(long)i * n] * lower[(long)i * n];
        for (int k = 1; k <= i; ++k) total = fused(lower[(long)i * n + k], lower[(long)i * n + k], total);
        return total;
    }
    NASH_RARE M linearize() {
        team.each(n, [&](int i) { work[i] = beta[i] / s[i]; });
        team.each(n, [&](int k) {
            for (int j = 0; j <= k; ++j) {
                S total = K::all(0);
                for (int i = k; i < n; ++i)
                    total = fused(lower[(long)i * n + k] * work[i], lower[(long)i * n + j], total);
                inner[(long)k * n + j] = total;
            }
        });
        const S ridge = mu + G::RIDGE * team.sum(n, [&](int k) { return inner[(long)k * n + k]; });
        team.each(n, [&](int k) { inner[(long)k * n + k] = inner[(long)k * n + k] + ridge, pull[k] = z[k]; });
        const M sound = team.factor(inner, inverse, n);
        team.solve(inner, inverse, pull, n);
        pivot = t / mu + team.sum(n, [&](int k) { return z[k] * pull[k]; });
        return sound;
    }
    // `product`: what beta s should miss w by, beyond rc; `rm`: what mu t should change by.
    template <class F> NASH_RARE void step(Move<S>& to, F product, S rm) {
        const S share = (rm - mu * rt) / t;
        team.each(n, [&](int i) { work[i] = (product(i) - beta[i] * rp[i]) / s[i]; });
        team.each(n, [&](int k) { to.dz[k] = rz[k] + column(k, work) - z[k] * share; });
        team.solve(inner, inverse, to.dz, n);
        const S along = team.sum(n, [&](int k) { return z[k] * to.dz[k]; }) / pivot;
        team.each(n, [&](int k) { to.dz[k] = to.dz[k] - pull[k] * along; });
        team.each(n, [&](int i) {
            to.ds[i] = row(i, to.dz) + rp[i];
            to.db[i] = (product(i) - beta[i] * to.ds[i]) / s[i];
        });
        to.dt = rt - team.sum(n, [&](int k) { return z[k] * to.dz[k]; });
        to.dm = (rm - mu * to.dt) / t;
    }
    NASH_RARE S reach(const Move<S>& move, double fraction) const {
        S low = team.least(n, [&](int i) { return smaller(move.ds[i] / s[i], move.db[i] / beta[i]); });
        low = smaller(low, smaller(move.dt / t, move.dm / mu));
        return select(low < -(R)fraction, -(R)fraction / low, K::all(1));
    }
    // Mehrotra's step, or the one without its second-order term where that goes further.
    NASH_RARE void advance(M live) {
        step(predictor, [&](int i) { return rc[i]; }, -(mu * t));
        const S first = reach(predictor, 1.0);
        const S after = (mu + first * predictor.dm) * (t + first * predictor.dt) / (mu * t);
        const S kept = larger(after, K::all(0));
        const S centre = kept * kept * kept * mu * t - mu * t;
        step(plain, [&](int i) { return rc[i]; }, centre);
        step(curved, [&](int i) { return rc[i] - predictor.ds[i] * predictor.db[i]; },
             centre - predictor.dm * predictor.dt);
        const S h_plain = reach(plain, 0.9), h_curved = reach(curved, 0.9);
        const M worse = h_curved < h_plain;
        const S h = larger(h_curved, h_plain);
        team.each(n, [&](int i) {
            z[i] = select(live, z[i] + h * select(worse, plain.dz[i], curved.dz[i]), z[i]);
            s[i] = select(live, s[i] + h * select(worse, plain.ds[i], curved.ds[i]), s[i]);
            beta[i] = select(live, beta[i] + h * select(worse, plain.db[i], curved.db[i]), beta[i]);
        });
        mu = select(live, mu + h * select(worse, plain.dm, curved.dm), mu);
        t = select(live, t + h * select(worse, plain.dt, curved.dt), t);
    }
};

// beta and mu of the active ball; returns one of Stop, BROKEN where the ball is inactive.
template <class T>
NASH_RARE typename T::S follow(const T& team, int n, const typename T::S* lower, const typename T::S* d,
                             const typename T::S* w, typename T::S* beta, typename T::S& mu, int max_iter,
                             Room<typename T::S> room, typename T::S& n_iter) {
    using S = typename T::S;
    using K = Kind<S>;
    using M = typename K::mask;
    using R = typename K::real;
    using G = Grain<R>;
    Path<T> path(team, n, lower, d, w, room);
    const S total = team.sum(n, [&](int i) { return w[i]; });
    path.mu = total, path.t = K::all(R(0.5));
    team.each(n, [&](int i) {
        path.z[i] = K::all(0), path.s[i] = larger(-d[i], K::all(R(0.3))), path.beta[i] = w[i] / path.s[i];
    });
    S best = K::all(G::VAST), stalled = K::all(0), stop = K::all(OUT_OF_ITERATIONS);
    M live = K::yes(true);
    n_iter = K::all(0);
    for (int iteration = 0;; ++iteration) {
        S spread;
        M blocked;
        const S error = path.residuals(total, spread, blocked);
        stalled = select(error > R(0.5) * best, stalled + R(1), K::all(0));
        best = smaller(best, error);
        M settled = (path.t < R(1e-5)) & (path.mu > R(1e-5) * total);
        const M inside = (path.t > R(1e-3)) & (path.mu < G::FLAT * total);
        settled = settled | inside;
        const M solved = (error < G::EXACT) | ((error < G::CLEAR) & settled) | ((error < G::FLOOR) & (stalled >= R(2)));
        const M odd = !((spread < G::FAR * total) & (error == error));
        stop = select(live & solved, select(path.mu < G::NOTHING * total, K::all(BROKEN), K::all(CONVERGED)), stop);
        stop = select(live & (blocked | odd) & (!solved), K::all(DIVERGED), stop);
        live = live & (!(solved | blocked | odd));
        if (!team.any_of(live) || iteration == max_iter) break;
        n_iter = select(live, n_iter + R(1), n_iter);
        live = live & path.linearize();
        path.advance(live);
    }
    team.each(n, [&](int i) { beta[i] = path.beta[i]; });
    mu = path.mu;
    return stop;
}

// Newton on beta (B beta / mu - d) = w and beta' B beta = mu^2, in relative steps, kept only where the residual falls.
template <class T>
NASH_RARE void polish(const T& team, int n, const typename T::S* b, const typename T::S* d, const typename T::S* w,
                    typename T::S* beta, typename T::S& mu, Room<typename T::S> room) {
    using S = typename T::S;
    using K = Kind<S>;
    using M = typename K::mask;
    using R = typename K::real;
    S *h = room.square, *inverse = room.lines, *pull = inverse + n, *first = pull + n, *x = first + n, *y = x + n,
      *good = y + n, *product = good + n;
    S best = K::all(Grain<R>::VAST), good_mu = mu;
    team.each(n, [&](int i) { good[i] = beta[i]; });
    for (int count = 0; count < 5; ++count) {
        team.product(b, beta, product, n);
        team.each(n, [&](int i) {
            pull[i] = beta[i] * product[i] / mu;
            first[i] = pull[i] - beta[i] * d[i] - w[i];
        });
        const S q = team.sum(n, [&](int i) { return pull[i]; }) / mu;
        S error = team.most(n, [&](int i) { return size_of(first[i]) / (w[i] + beta[i] * size_of(d[i])); });
        error = larger(error, size_of(q - R(1)));
        const M better = error < best;
        team.each(n, [&](int i) { good[i] = select(better, beta[i], good[i]); });
        good_mu = select(better, mu, good_mu);
        best = select(better, error, best);
        if (!team.any_of(better & (error > Grain<R>::EPS))) break;
        team.each(n, [&](int i) {
            for (int j = 0; j < i; ++j) h[(long)i * n + j] = beta[i] * b[(long)i * n + j] * beta[j] / mu;
            h[(long)i * n + i] = beta[i] * b[(long)i * n + i] * beta[i] / mu + (w[i] + first[i]);
            x[i] = first[i], y[i] = pull[i];
        });
        team.factor(h, inverse, n);
        team.solve(h, inverse, x, n);
        team.solve(h, inverse, y, n);
        const S against = team.sum(n, [&](int i) { return pull[i] * y[i]; }) / mu - q;
        const S f = (R(0.5) * (R(1) - q) + team.sum(n, [&](int i) { return pull[i] * x[i]; }) / mu) / against;
        const S largest = larger(size_of(f), team.most(n, [&](int i) { return size_of(y[i] * f - x[i]); }));
        const M small = largest < R(0.5);
        team.each(n, [&](int i) { beta[i] = select(small, beta[i] * (R(1) + (y[i] * f - x[i])), beta[i]); });
        mu = select(small, mu * (R(1) + f), mu);
    }
    team.each(n, [&](int i) { beta[i] = good[i]; });
    mu = good_mu;
}

}  // namespace NASH_NAMESPACE
