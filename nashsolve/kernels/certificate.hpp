// The judge of a Gram and an alpha, as nashsolve/core/certificate.py states it, and the status as core/solution.py does.
#pragma once
#include "newton.hpp"

namespace NASH_NAMESPACE {

enum Number { MULTIPLIER, LOG_NASH, GAP, BACKWARD, ANGLE, MARGIN, MARGIN_LOWER, RADIUS_NEEDED, RESOLUTION, AT_FLOOR,
              UNEVEN, NUMBERS };
enum Line { ALPHA, COEFFICIENTS, UTILITIES, GAINS, BOUND, BLOCKING, EFFECTIVE, LINES };
enum Code { SOLVED = 0, SOLVED_INACCURATE = 1, NO_AGREEMENT = 2, AMBIGUOUS = 3, MAX_ITER = 4, NUMERICAL_ERROR = 6 };

template <class S> NASH_FN S phi(S t) {  // t - log(1 + t), without cancellation near zero
    const S series = t * t * (0.5 - t * (1.0 / 3 - t * (0.25 - 0.2 * t)));
    const typename Kind<S>::mask near = size_of(t) < 1e-4;
    if (!any(!near)) return series;
    return select(near, series, t - logarithm_of_one_plus(t));
}

template <class S> NASH_FN S phi_above(S t) {  // the larger of phi(t) and phi(-t); infinite from 1 on
    const typename Kind<S>::mask inside = t < 1;
    return select(inside, phi(select(inside, -t, Kind<S>::all(0))), Kind<S>::all(infinity()));
}

// lines: LINES * n, with ALPHA filled in; numbers: NUMBERS. d may be null. rough: whether the iteration ran in floats,
// whose precision is then what an answer that is not good enough lacks. Returns the status code as a scalar.
template <class T>
NASH_LARGE typename T::S certify(const T& team, int n, const typename T::S* gram, const typename T::S* w,
                              const typename T::S* d, typename T::S radius, double gram_error, double rtol,
                              typename T::S stop, typename T::S* lines, typename T::S* numbers,
                              Room<typename T::S> room, bool rough = false) {
    using S = typename T::S;
    using K = Kind<S>;
    S *a = lines + ALPHA * n, *c = lines + COEFFICIENTS * n, *u = lines + UTILITIES * n, *gains = lines + GAINS * n,
      *bound = lines + BOUND * n, *blocking = lines + BLOCKING * n, *effective = lines + EFFECTIVE * n;
    S *error = room.lines, *norms = error + n, *t = norms + n, *up = t + n;
    const S infinite = K::all(infinity());
    const double noise = n * EPS + gram_error;
    team.product(gram, a, u, n);
    team.each(n, [&](int i) { norms[i] = root(gram[(long)i * n + i]); });
    const S lengths = team.sum(n, [&](int i) { return a[i] * norms[i]; });
    team.product_of_sizes(gram, a, error, n);
    team.each(n, [&](int i) { error[i] = ((n + 3) * UNIT) * error[i] + gram_error * norms[i] * lengths; });
    const S q = team.sum(n, [&](int i) { return a[i] * u[i]; });
    const S wobble = team.sum(n, [&](int i) { return a[i] * error[i]; }) / q;
    const S length = root(larger(q, K::all(0)));
    const S multiplier = length / radius;
    const S weight = team.sum(n, [&](int i) { return w[i]; });
    const S own = radius * radius / weight;
    team.each(n, [&](int i) {
        effective[i] = a[i] * u[i] * own;
        c[i] = a[i] / multiplier;
        u[i] = u[i] / multiplier;
        error[i] = error[i] / multiplier + size_of(u[i]) * (wobble + 5 * EPS);
        gains[i] = u[i];
        if (d) gains[i] = u[i] - d[i], error[i] = error[i] + EPS * size_of(d[i]), effective[i] = a[i] * gains[i];
        const S share = a[i] / w[i];
        t[i] = share * gains[i] - 1.0;
        up[i] = size_of(t[i]) + share * error[i] + 4 * EPS;
    });
    const S ray = team.sum(n, [&](int i) { return w[i] * t[i]; }) / weight;
    const S gap = team.sum(n, [&](int i) { return w[i] * phi((t[i] - ray) / (1.0 + ray)); });
    const S gap_up = team.sum(n, [&](int i) { return w[i] * phi_above(up[i]); });
    const S square = team.sum(n, [&](int i) { return w[i] * t[i] * t[i]; });
    const S rounding = team.sum(n, [&](int i) {
        const S own_part = up[i] - size_of(t[i]);
        return w[i] * own_part * own_part;
    });
    typename K::mask floor = square <= 4.0 * rounding;
    team.each(n, [&](int i) {
        const S rooted = root(2.0 * gap_up / w[i]);
        bound[i] = select(rooted < 1, (1.0 + up[i]) / (1.0 - rooted) - 1.0, infinite);
    });
    auto size = [&](int i) { return d ? norms[i] * radius + size_of(d[i]) : norms[i] * radius; };
    const S spread = team.sum(n, [&](int i) { return a[i] * size(i); });
    const S spare = team.sum(n, [&](int i) { return size_of(c[i]) * norms[i]; });
    const S refused = d ? team.sum(n, [&](int i) { return d[i] * a[i]; }) : K::all(0);
    const S reach = radius * length, ratio = reach / spread;
    const double coarse = root(noise);
    const S resolution = noise / select(ratio > coarse, ratio, K::all(coarse));
    const S whole = team.sum(n, [&](int i) { return a[i]; });
    const S needed = select(refused > 0, refused / length, K::all(0));
    const typename K::mask stuck = (ratio <= 10.0 * resolution) & (refused >= 0);
    const S lower = team.least(n, [&](int i) { return (gains[i] - error[i]) / size(i); });
    const S margin = (reach - refused) / spread;
    if (rough) {  // residuals that floats cannot see: their rounding over the squared margin
        const S seen = team.most(n, [&](int i) { return w[i] * size_of(t[i]); }) * margin * margin;
        floor = floor | (seen <= ((n + 3) * (double)Grain<float>::EPS) * weight);
    }
    numbers[MULTIPLIER] = multiplier;
    numbers[LOG_NASH] = team.sum(n, [&](int i) { return w[i] * logarithm(gains[i]); });
    numbers[GAP] = gap;
    numbers[BACKWARD] = team.most(n, [&](int i) {
        const S target = w[i] / a[i], scale = norms[i] * spare + target;
        return size_of(gains[i] - target) / (d ? scale + size_of(d[i]) : scale);
    });
    numbers[ANGLE] = root(gap_up / weight);
    numbers[MARGIN] = margin;
    numbers[MARGIN_LOWER] = lower;
    numbers[RADIUS_NEEDED] = select(stuck, infinite, needed);
    numbers[RESOLUTION] = resolution;
    numbers[AT_FLOOR] = select(floor, K::all(1), K::all(0));
    // Worst news last, as in _decide.
    const S worst = team.most(n, [&](int i) { return bound[i]; });
    const typename K::mask feasible = lower > 0, sure = feasible & (worst <= rtol);
    const typename K::mask near = feasible & (worst < 1) & ((worst <= 1e3 * rtol) | floor);
    S code = select(stop == (double)OUT_OF_ITERATIONS, K::all(MAX_ITER), K::all(rough ? AMBIGUOUS : NUMERICAL_ERROR));
    code = select(near, K::all(SOLVED_INACCURATE), code);
    code = select(floor & feasible & (!near), K::all(AMBIGUOUS), code);
    code = select((margin <= 10.0 * resolution) & (!sure), K::all(AMBIGUOUS), code);
    code = select(sure, K::all(SOLVED), code);
    // A Gram known to be wrong by more than the rounding of float32 proves nothing within its error.
    const bool stated = gram_error > 1.2e-7;
    const double share = stated ? root(n * EPS / noise) : 1.0;
    typename K::mask none = size_of(margin) <= 0.32 * share * resolution;
    none = none | (margin <= (stated ? -1.0 : 0.32) * resolution);
    code = select(none & (!feasible), K::all(NO_AGREEMENT), code);
    const typename K::mask shown = (code == (double)NO_AGREEMENT) | (code == (double)AMBIGUOUS);
    team.each(n, [&](int i) { blocking[i] = select(shown, a[i] / whole, K::all(not_a_number())); });
    return code;
}

}  // namespace NASH_NAMESPACE
