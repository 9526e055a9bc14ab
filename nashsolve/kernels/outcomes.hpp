// A table of payoffs by columns, one player after the other, and the sums over outcomes that lotteries need. Outcomes lie
// side by side in vector registers; players are few.
#pragma once

#include "teams.hpp"

namespace NASH_NAMESPACE {

// Full packs of entries, then the rest one by one: f is given a scalar or a pack, to say which, and the place.
template <class F> NASH_FN void sweep(long many, F f) {
    long k = 0;
    for (; k + LANES <= many; k += LANES) f(Pack{}, k);
    for (; k < many; ++k) f(0.0, k);
}
template <class S> NASH_FN S at(const double* x) {
    if constexpr (sizeof(S) == 8)
        return *x;
    else
        return Row::load(x);
}
NASH_FN void put(double* x, double y) { *x = y; }
NASH_FN void put(double* x, Pack y) { Row::store(x, y); }

template <class F> NASH_FN double total_of(long many, F f) {
    Pack part = {};
    double rest = 0;
    long k = 0;
    for (; k + LANES <= many; k += LANES) part += f(Pack{}, k);
    for (; k < many; ++k) rest += f(0.0, k);
    return Row::total(part) + rest;
}
// The least of all and of `least`; a NaN counts for nothing.
template <class F> NASH_FN double least_of(double least, long many, F f) {
    Pack part = Kind<Pack>::all(least);
    long k = 0;
    for (; k + LANES <= many; k += LANES) part = smaller(part, f(Pack{}, k));
    for (; k < many; ++k) least = smaller(least, f(0.0, k));
    for (int lane = 0; lane < LANES; ++lane) least = smaller(least, part[lane]);
    return least;
}

struct Outcomes {
    static constexpr int TILE = 256;               // outcomes whose columns stay in the first cache
    static constexpr int ACROSS = LANES == 8 ? 4 : 2;  // as many sums as there are registers for
    static constexpr int SCALED = 4 * TILE;

    const double* table;  // column i begins at table + i * many
    long many;
    int n;

    const double* column(int i) const { return table + (long)i * many; }

    // out_k = sum_i v_ki a_i
    void worth(const double* a, double* out) const {
        long k = 0;
        for (; k + 4 * LANES <= many; k += 4 * LANES) strip<4>(a, out, k);
        for (; k + LANES <= many; k += LANES) strip<1>(a, out, k);
        for (; k < many; ++k) {
            double sum = 0;
            for (int i = 0; i < n; ++i) sum = fused(column(i)[k], a[i], sum);
            out[k] = sum;
        }
    }
    // out_i = sum_k v_ki x_k
    void mean(const double* x, double* out) const {
        int i = 0;
        for (; i + 4 <= n; i += 4) Row().dots<4>(column(i), x, out + i, (int)many);
        for (; i < n; ++i) Row().dots<1>(column(i), x, out + i, (int)many);
    }
    // Lower triangle of V' diag(pull) V; what is above it is overwritten. `scaled` is room for SCALED numbers.
    void square(const double* pull, double* scaled, double* system) const {
        for (long e = 0; e < (long)n * n; ++e) system[e] = 0;
        for (long begin = 0; begin < many; begin += TILE) {
            const int length = (int)(begin + TILE < many ? TILE : many - begin);
            int i = 0;
            for (; i + 4 <= n; i += 4) rows<4>(pull, scaled, system, begin, length, i);
            for (; i < n; ++i) rows<1>(pull, scaled, system, begin, length, i);
        }
    }

  private:
    template <int C> NASH_FN void strip(const double* a, double* out, long k) const {
        Pack sum[C] = {};
        for (int i = 0; i < n; ++i) {
            const Pack by = Kind<Pack>::all(a[i]);
            const double* from = column(i) + k;
            for (int c = 0; c < C; ++c) sum[c] = fused(Row::load(from + c * LANES), by, sum[c]);
        }
        for (int c = 0; c < C; ++c) Row::store(out + k + c * LANES, sum[c]);
    }
    template <int R>
    void rows(const double* pull, double* scaled, double* system, long begin, int length, int i) const {
        for (int r = 0; r < R; ++r) {
            const double* from = column(i + r) + begin;
            sweep(length, [&](auto kind, long k) {
                using S = decltype(kind);
                put(scaled + r * TILE + k, at<S>(from + k) * at<S>(pull + begin + k));
            });
        }
        int j = 0;
        for (; j + ACROSS <= i + R; j += ACROSS) cross<R, ACROSS>(scaled, system, begin, length, i, j);
        for (; j < i + R; ++j) cross<R, 1>(scaled, system, begin, length, i, j);
    }
    template <int R, int C>
    NASH_FN void cross(const double* scaled, double* system, long begin, int length, int i, int j) const {
        Pack sum[R][C] = {};
        int k = 0;
        for (; k + LANES <= length; k += LANES) {
            Pack left[R];
            for (int r = 0; r < R; ++r) left[r] = Row::load(scaled + r * TILE + k);
            for (int c = 0; c < C; ++c) {
                const Pack right = Row::load(column(j + c) + begin + k);
                for (int r = 0; r < R; ++r) sum[r][c] = fused(left[r], right, sum[r][c]);
            }
        }
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c) {
                double all = Row::total(sum[r][c]);
                for (int rest = k; rest < length; ++rest)
                    all = fused(scaled[r * TILE + rest], column(j + c)[begin + rest], all);
                system[(long)(i + r) * n + j + c] += all;
            }
    }
};

}  // namespace NASH_NAMESPACE
