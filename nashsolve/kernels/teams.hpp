// Who works on a problem: how the loops over its players run, and its linear algebra.
// `Lane` is one thread over all players, for a scalar or a pack; `Row` one thread with the players side by side in
// vector registers, for problems too large for lanes; `Threads` (CUDA only) a warp or a block.
#pragma once
#include "scalar.hpp"

namespace NASH_NAMESPACE {

// Rows of `h` hold the lower triangle. On return its strict lower triangle is L and `diagonal` is 1 / L_ii.
template <class S_> struct Lane {
    using S = S_;
    static constexpr int GROUP = 1;  // players whose row products are taken together
    NASH_FN auto narrow() const { return Lane<typename Narrow<S>::type>(); }  // the same team, in floats
    template <class F> NASH_FN void each(int n, F f) const {
        for (int i = 0; i < n; ++i) f(i);
    }
    template <class F> NASH_FN S sum(int n, F f) const {
        S total = f(0);
        for (int i = 1; i < n; ++i) total = total + f(i);
        return total;
    }
    template <class F> NASH_FN S least(int n, F f) const {
        S result = f(0);
        for (int i = 1; i < n; ++i) result = smaller(result, f(i));
        return result;
    }
    template <class F> NASH_FN S most(int n, F f) const {
        S result = f(0);
        for (int i = 1; i < n; ++i) result = larger(result, f(i));
        return result;
    }
    NASH_FN bool any_of(typename Kind<S>::mask m) const { return any(m); }

    NASH_FN S dot(const S* x, const S* y, int n) const {
        S total = x[0] * y[0];
        for (int j = 1; j < n; ++j) total = fused(x[j], y[j], total);
        return total;
    }
    NASH_FN void product(const S* matrix, const S* x, S* y, int n) const {
        for (int i = 0; i < n; ++i) y[i] = dot(matrix + i * n, x, n);
    }
    template <int G> NASH_FN void dots(const S* rows, const S* x, S* y, int n) const {
        for (int g = 0; g < G; ++g) y[g] = dot(rows + g * n, x, n);
    }
    NASH_FN void product_of_sizes(const S* matrix, const S* x, S* y, int n) const {  // |matrix| x, for x >= 0
        for (int i = 0; i < n; ++i) {
            S total = size_of(matrix[i * n]) * x[0];
            for (int j = 1; j < n; ++j) total = fused(size_of(matrix[i * n + j]), x[j], total);
            y[i] = total;
        }
    }
    // Both halves of gram become their mean, unit its scaled copy; returns the largest scaled difference, or NaN.
    NASH_FN S halves(S* gram, const S* scale, S* unit, int n) const {
        S worst = Kind<S>::all(0);
        for (int i = 0; i < n; ++i) {
            for (int j = 0; j < i; ++j) {
                const S one = gram[i * n + j], other = gram[j * n + i], mean = 0.5 * one + 0.5 * other;
                const S value = (scale[i] * mean) * scale[j], gap = (size_of(one - other) * scale[i]) * scale[j];
                gram[i * n + j] = mean, gram[j * n + i] = mean, unit[i * n + j] = value, unit[j * n + i] = value;
                worst = select(gap <= worst, worst, gap);
            }
            unit[i * n + i] = (scale[i] * gram[i * n + i]) * scale[i];
        }
        return worst;
    }
    // Whether unit_ij^2 <= unit_ii unit_jj up to a factor.
    NASH_FN typename Kind<S>::mask within(const S* unit, int n, double factor, S*) const {
        typename Kind<S>::mask good = Kind<S>::yes(true);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < i; ++j)
                good = good & (unit[i * n + j] * unit[i * n + j] <= factor * unit[i * n + i] * unit[j * n + j]);
        return good;
    }
    // Whether every pivot was positive; a lane whose pivot is not gets NaN.
    NASH_FN typename Kind<S>::mask factor(S* h, S* diagonal, int n) const {
        typename Kind<S>::mask good = Kind<S>::yes(true);
        for (int j = 0; j < n; ++j) {
            S pivot = h[j * n + j];
            for (int k = 0; k < j; ++k) pivot = fused(-h[j * n + k], h[j * n + k], pivot);
            good = good & (pivot > 0);
            const S inverse = typename Kind<S>::real(1) / root(pivot);
            diagonal[j] = inverse;
            for (int i = j + 1; i < n; ++i) {
                S value = h[i * n + j];
                for (int k = 0; k < j; ++k) value = fused(-h[i * n + k], h[j * n + k], value);
                h[i * n + j] = value * inverse;
            }
        }
        return good;
    }
    NASH_FN void solve(const S* h, const S* diagonal, S* x, int n) const {
        for (int i = 0; i < n; ++i) {
            S value = x[i];
            for (int k = 0; k < i; ++k) value = fused(-h[i * n + k], x[k], value);
            x[i] = value * diagonal[i];
        }
        for (int i = n - 1; i >= 0; --i) {
            S value = x[i];
            for (int k = i + 1; k < n; ++k) value = fused(-h[k * n + i], x[k], value);
            x[i] = value * diagonal[i];
        }
    }
};

#if !defined(__CUDACC__)
template <class Real> struct PackOf;
template <> struct PackOf<double> { using type = Pack; };
template <> struct PackOf<float> { using type = Pack32; };

template <class Real> struct RowOf {
    using S = Real;
    using Pack = typename PackOf<Real>::type;
    static constexpr int LANES = sizeof(Pack) / sizeof(Real);
    static constexpr int GROUP = 4;
    RowOf<float> narrow() const { return {}; }
    template <class F> NASH_FN void each(int n, F f) const {
        for (int i = 0; i < n; ++i) f(i);
    }
    template <class F> NASH_FN Real sum(int n, F f) const {
        Real part[8] = {0, 0, 0, 0, 0, 0, 0, 0}, total = 0;
        int i = 0;
        for (; i + 8 <= n; i += 8)
            for (int k = 0; k < 8; ++k) part[k] += f(i + k);
        for (int k = 0; k < 8; ++k) total += part[k];
        for (; i < n; ++i) total += f(i);
        return total;
    }
    template <class F> NASH_FN Real least(int n, F f) const {
        Real result = f(0);
        for (int i = 1; i < n; ++i) result = smaller(result, f(i));
        return result;
    }
    template <class F> NASH_FN Real most(int n, F f) const {
        Real result = f(0);
        for (int i = 1; i < n; ++i) result = larger(result, f(i));
        return result;
    }
    NASH_FN bool any_of(bool m) const { return m; }

    static NASH_FN Pack load(const Real* x) {
        Pack y;
        __builtin_memcpy(&y, x, sizeof y);
        return y;
    }
    static NASH_FN void store(Real* x, Pack y) { __builtin_memcpy(x, &y, sizeof y); }
    static NASH_FN Real total(Pack x) {
        Real part[LANES];
        store(part, x);
        for (int step = LANES / 2; step; step /= 2)
            for (int k = 0; k < step; ++k) part[k] += part[k + step];
        return part[0];
    }
    NASH_FN Real dot(const Real* x, const Real* y, int n) const {
        Pack p[4] = {};
        int j = 0;
        for (; j + 4 * LANES <= n; j += 4 * LANES)
            for (int k = 0; k < 4; ++k) p[k] = fused(load(x + j + k * LANES), load(y + j + k * LANES), p[k]);
        for (; j + LANES <= n; j += LANES) p[0] = fused(load(x + j), load(y + j), p[0]);
        Real sum = total((p[0] + p[1]) + (p[2] + p[3]));
        for (; j < n; ++j) sum = fused(x[j], y[j], sum);
        return sum;
    }
    // The products of x with G consecutive rows (or with the sizes of their entries).
    template <int G, bool SIZES = false> NASH_FN void dots(const Real* rows, const Real* x, Real* y, int n) const {
        Pack p[G][2] = {};
        int j = 0;
        auto entry = [](Pack v) { return SIZES ? size_of(v) : v; };
        for (; j + 2 * LANES <= n; j += 2 * LANES) {
            const Pack one = load(x + j), two = load(x + j + LANES);
            for (int g = 0; g < G; ++g) {
                const Real* row = rows + (long)g * n + j;
                p[g][0] = fused(entry(load(row)), one, p[g][0]);
                p[g][1] = fused(entry(load(row + LANES)), two, p[g][1]);
            }
        }
        for (int g = 0; g < G; ++g) {
            const Real* row = rows + (long)g * n;
            Real sum = total(p[g][0] + p[g][1]);
            for (int k = j; k < n; ++k) sum = fused(SIZES ? size_of(row[k]) : row[k], x[k], sum);
            y[g] = sum;
        }
    }
    template <bool SIZES = false> void product(const Real* matrix, const Real* x, Real* y, int n) const {
        int i = 0;
        for (; i + 4 <= n; i += 4) dots<4, SIZES>(matrix + (long)i * n, x, y + i, n);
        for (; i < n; ++i) dots<1, SIZES>(matrix + (long)i * n, x, y + i, n);
    }
    void product_of_sizes(const Real* matrix, const Real* x, Real* y, int n) const {
        product<true>(matrix, x, y, n);
    }

    // Tiles against their transposes, so that both lie in the cache; equal halves are only read.
    Real halves(Real* gram, const Real* scale, Real* unit, int n) const {
        constexpr int T = 16;
        Real worst = 0;
        for (int top = 0; top < n; top += T)
            for (int left = 0; left <= top; left += T)
                for (int i = top; i < top + T && i < n; ++i) {
                    const int end = left == top ? i : left + T;
                    for (int j = left; j < end; ++j) {
                        const Real one = gram[(long)i * n + j], other = gram[(long)j * n + i];
                        if (one == other) continue;
                        const Real gap = (size_of(one - other) * scale[i]) * scale[j];
                        worst = gap <= worst ? worst : gap;
                        gram[(long)i * n + j] = gram[(long)j * n + i] = Real(0.5) * one + Real(0.5) * other;
                    }
                }
        for (int i = 0; i < n; ++i)
            for (int j = 0; j < n; ++j) unit[(long)i * n + j] = (scale[i] * gram[(long)i * n + j]) * scale[j];
        return worst;
    }

    bool within(const Real* unit, int n, Real factor, Real* diagonal) const {
        long outside = 0;
        for (int i = 0; i < n; ++i) {
            const Real* row = unit + (long)i * n;
            const Real bound = factor * row[i];
            diagonal[i] = row[i];
            for (int j = 0; j < i; ++j) outside += row[j] * row[j] > bound * diagonal[j];
        }
        return outside == 0;
    }

    // Panels of BLOCK columns: factor the panel, then subtract its square from what is right of it.
    static constexpr int BLOCK = 16;
    bool factor(Real* h, Real* diagonal, int n) const {
        for (int begin = 0; begin < n; begin += BLOCK) {
            const int end = begin + BLOCK < n ? begin + BLOCK : n;
            if (!panel(h, diagonal, n, begin, end)) return false;
            trail(h, n, begin, end);
        }
        return true;
    }
    bool panel(Real* h, Real* diagonal, int n, int begin, int end) const {
        for (int j = begin; j < end; ++j) {
            const Real* row = h + (long)j * n;
            Real pivot = row[j];
            for (int k = begin; k < j; ++k) pivot = fused(-row[k], row[k], pivot);
            if (!(pivot > 0)) return false;
            diagonal[j] = Real(1) / root(pivot);
            for (int i = j + 1; i < end; ++i) below(h + (long)i * n, row, diagonal[j], begin, j);
        }
        // Rows below the panel: LANES of them side by side, transposed into columns.
        int i = end;
        for (; i + LANES <= n; i += LANES) {
            Pack column[BLOCK];
            for (int j = begin; j < end; ++j)
                for (int k = 0; k < LANES; ++k) column[j - begin][k] = h[(long)(i + k) * n + j];
            for (int j = begin; j < end; ++j) {
                Pack value = column[j - begin];
                const Real* row = h + (long)j * n;
                for (int k = begin; k < j; ++k) value = fused(column[k - begin], Kind<Pack>::all(-row[k]), value);
                column[j - begin] = value * diagonal[j];
            }
            for (int j = begin; j < end; ++j)
                for (int k = 0; k < LANES; ++k) h[(long)(i + k) * n + j] = column[j - begin][k];
        }
        for (; i < n; ++i)
            for (int j = begin; j < end; ++j) below(h + (long)i * n, h + (long)j * n, diagonal[j], begin, j);
        return true;
    }
    static NASH_FN void below(Real* target, const Real* row, Real inverse, int begin, int j) {
        Real value = target[j];
        for (int k = begin; k < j; ++k) value = fused(-target[k], row[k], value);
        target[j] = value * inverse;
    }
    // Upper triangle as scratch: the panel's columns lie there as rows, so that updates read them side by side.
    void trail(Real* h, int n, int begin, int end) const {
        if (end == n) return;
        for (int k = begin; k < end; ++k)
            for (int j = end; j < n; ++j) h[(long)k * n + j] = h[(long)j * n + k];
        int i = end;
        for (; i + 4 <= n; i += 4) update<4>(h, n, begin, end, i);
        for (; i < n; ++i) update<1>(h, n, begin, end, i);
    }
    template <int R> NASH_FN void update(Real* h, int n, int begin, int end, int i) const {
        int j = end;
        for (; j + 2 * LANES <= i + R && j + 2 * LANES <= n; j += 2 * LANES) tile<R, 2>(h, n, begin, end, i, j);
        for (; j < i + R && j + LANES <= n; j += LANES) tile<R, 1>(h, n, begin, end, i, j);
        for (; j < i + R && j < n; ++j)
            for (int r = 0; r < R; ++r) {
                Real value = h[(long)(i + r) * n + j];
                for (int k = begin; k < end; ++k)
                    value = fused(-h[(long)(i + r) * n + k], h[(long)k * n + j], value);
                if (j <= i + r) h[(long)(i + r) * n + j] = value;
            }
    }
    // Columns j.. of rows i..i+R. A tile may reach past the diagonal, into scratch that is not read again.
    template <int R, int C> NASH_FN void tile(Real* h, int n, int begin, int end, int i, int j) const {
        Pack value[R][C];
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c) value[r][c] = load(h + (long)(i + r) * n + j + c * LANES);
        for (int k = begin; k < end; ++k) {
            const Real* across = h + (long)k * n + j;
            for (int r = 0; r < R; ++r) {
                const Pack left = Kind<Pack>::all(-h[(long)(i + r) * n + k]);
                for (int c = 0; c < C; ++c) value[r][c] = fused(left, load(across + c * LANES), value[r][c]);
            }
        }
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c) store(h + (long)(i + r) * n + j + c * LANES, value[r][c]);
    }
    void solve(const Real* h, const Real* diagonal, Real* x, int n) const {
        for (int i = 0; i < n; ++i) x[i] = (x[i] - dot(h + (long)i * n, x, i)) * diagonal[i];
        for (int i = n - 1; i >= 0; --i) {
            const Real value = x[i] = x[i] * diagonal[i];
            const Real* row = h + (long)i * n;
            for (int k = 0; k < i; ++k) x[k] = fused(-value, row[k], x[k]);
        }
    }
};
using Row = RowOf<double>;
#endif

}  // namespace NASH_NAMESPACE
