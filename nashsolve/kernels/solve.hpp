// The whole solve of one problem: read and check the Gram, equilibrate, iterate, certify, set the status.
#pragma once
#include "certificate.hpp"
#include "in_floats.hpp"

namespace NASH_NAMESPACE {

// gram: n * n, replaced by the mean of its halves. scale: n powers of two. unit: n * n, the Gram of players of size
// about one. apart: the largest difference of the halves. Returns where it is a Gram; elsewhere the caller says what is
// wrong.
template <class T>
NASH_LARGE typename Kind<typename T::S>::mask examine(const T& team, int n, typename T::S* gram, typename T::S* scale,
                                                   typename T::S* unit, typename T::S& apart, Settings how,
                                                   Room<typename T::S> room) {
    using S = typename T::S;
    using K = Kind<S>;
    team.each(n, [&](int i) { scale[i] = 1.0 / power_of_two_below(root(gram[(long)i * n + i])); });
    typename K::mask good = team.least(n, [&](int i) { return gram[(long)i * n + i]; }) > 0;
    const double limit = 32 * EPS + how.gram_error;
    apart = team.halves(gram, scale, unit, n);
    const S largest = team.most(n, [&](int i) { return unit[(long)i * n + i]; });
    good = good & (apart <= limit) & (largest < 4.0);
    const double shift = how.slack * (16 * n * EPS + 4 * n * how.gram_error);
    // |A_ij|^2 <= A_ii A_jj, a cheap necessary condition
    good = good & team.within(unit, n, 1 + (how.slack > 1 ? 4 * shift : 2 * limit), room.lines);
    if (!how.definite || how.rough) return good;
    team.each(n, [&](int i) {
        for (int j = 0; j < i; ++j) room.square[(long)i * n + j] = unit[(long)i * n + j];
        room.square[(long)i * n + i] = unit[(long)i * n + i] + shift;
    });
    return good & team.factor(room.square, room.lines, n);
}

// Of the given start and the cold one, each on the optimum of its ray, the one with the better objective; a start that
// is not positive and finite loses. On return a is the choice, a cold one as ones.
template <class T>
NASH_LARGE void choose_start(const T& team, int n, const typename T::S* b, const typename T::S* w,
                          const typename T::S* scale, typename T::S* a, Room<typename T::S> room) {
    using S = typename T::S;
    using K = Kind<S>;
    S *product = room.lines, *ones = product + n;
    team.each(n, [&](int i) { a[i] = a[i] / scale[i], ones[i] = K::all(1); });
    const S top = team.most(n, [&](int i) { return a[i]; }), whole = team.sum(n, [&](int i) { return a[i]; });
    const typename K::mask fine = (team.least(n, [&](int i) { return a[i]; }) > 1e-30 * top) & (whole < 1e300);
    team.each(n, [&](int i) { a[i] = select(fine, a[i] / top, K::all(1)); });
    const S weight = team.sum(n, [&](int i) { return w[i]; });
    auto value = [&](const S* x) {  // sum w log x at the optimum of the ray
        team.product(b, x, product, n);
        const S length = team.sum(n, [&](int i) { return x[i] * product[i]; });
        return team.sum(n, [&](int i) { return w[i] * logarithm(x[i]); }) - 0.5 * weight * logarithm(length);
    };
    const S warm_value = value(a), cold_value = value(ones);
    const typename K::mask better = fine & (warm_value > cold_value);
    team.each(n, [&](int i) { a[i] = select(better, a[i], K::all(1)); });
}

// w: weights, positive and finite or the problem is left to Python. d: disagreement of the given players, read only
// where PLACED. natural: whether the radius is sqrt(sum w). warm: whether ALPHA of lines holds a start; a bad one is
// ignored. ROUGH: whether to iterate in floats. silent: not null where players of length zero may be among those with a
// disagreement point, 1 for each.
template <bool PLACED, bool ROUGH, class T>
NASH_FN typename T::S solve_from(const T& team, int n, typename T::S* gram, const typename T::S* w,
                                 const typename T::S* d, typename T::S* unit_d, typename T::S radius, bool natural,
                                 bool warm, Settings how, typename T::S* scale, typename T::S* unit,
                                 typename T::S* lines, typename T::S* numbers, typename T::S& n_iter,
                                 Room<typename T::S> room, const typename T::S* silent = nullptr) {
    using S = typename T::S;
    using K = Kind<S>;
    how.rough = ROUGH;
    typename K::mask good = examine(team, n, gram, scale, unit, numbers[UNEVEN], how, room);
    const typename K::mask heavy = team.least(n, [&](int i) { return w[i]; }) > 0;
    const S weight = team.sum(n, [&](int i) { return w[i]; });
    const S own = root(weight);
    if (natural) radius = own;
    const typename K::mask finite = (weight < 1e300) & (radius < 1e300) & (radius > 0);
    S* a = lines + ALPHA * n;
    if (warm)
        choose_start(team, n, unit, w, scale, a, room);
    else
        team.each(n, [&](int i) { a[i] = K::all(1); });
    if constexpr (PLACED) {
        team.each(n, [&](int i) {
            unit_d[i] = d[i] * scale[i] / radius;
            if (silent) {
                const typename K::mask still = silent[i] > 0;
                gram[(long)i * n + i] = select(still, K::all(0), gram[(long)i * n + i]);
                unit[(long)i * n + i] = select(still, K::all(0), unit[(long)i * n + i]);
            }
        });
    }
    const double noise = n * EPS + how.gram_error;
    S stop;
    if constexpr (ROUGH) {
        stop = iterate_in_floats<PLACED>(team, n, unit, w, unit_d, weight, a, how, good, room, n_iter);
    } else {
        stop = iterate<PLACED>(team, n, unit, w, unit_d, a, noise, how.max_iter, room, n_iter);
    }
    team.each(n, [&](int i) {
        if constexpr (PLACED)
            a[i] = a[i] * scale[i] / radius;
        else
            a[i] = natural ? a[i] * scale[i] : a[i] * scale[i] * (own / radius);
    });
    const S code = certify(team, n, gram, w, PLACED ? d : (const S*)0, radius, how.gram_error, how.rtol, stop, lines,
                           numbers, room, ROUGH);
    return select(good & heavy & finite, code, K::all(LEFT_TO_PYTHON));
}

}  // namespace NASH_NAMESPACE
