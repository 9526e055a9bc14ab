// A block of W threads on one problem whose matrices lie in global memory: more players than shared memory holds. What is
// shared is a panel of the Cholesky factor, some columns of it, by which the rest is updated in register tiles. Every
// number takes the operations of `Tile` in the same order, so the width of the panel changes no bit of an answer.
#pragma once
#include "tile.hpp"

namespace NASH_NAMESPACE {

template <int W, class Real = double> struct Blockwide : Tile<W, Real> {
    static constexpr int MOST = 16, ROWS = 4, COLUMNS = 4, LANE = 32;  // of a panel, and of a thread's tile
    Real* panel;  // `held` numbers
    int held;

    NASH_FN Blockwide<W, float> narrow() const {  // the same team, in floats
        Blockwide<W, float> team;
#if defined(__CUDA_ARCH__)
        team.shared = (float*)this->shared;
#endif
        team.panel = (float*)panel, team.held = held * (int)(sizeof(Real) / sizeof(float));
        return team;
    }
    NASH_FN int columns(int n) const {
        const int fit = held / n;
        return fit < 1 ? 1 : (fit < MOST ? fit : MOST);
    }

    // Neighbouring threads read neighbouring numbers: of a symmetric matrix, its columns for its rows.
    NASH_FN void product(const Real* matrix, const Real* x, Real* y, int n) const {
        this->each(n, [&](int i) {
            Real total = matrix[i] * x[0];
            for (int j = 1; j < n; ++j) total = fused(matrix[j * n + i], x[j], total);
            y[i] = total;
        });
    }
    NASH_FN void product_of_sizes(const Real* matrix, const Real* x, Real* y, int n) const {
        this->each(n, [&](int i) {
            Real total = size_of(matrix[i]) * x[0];
            for (int j = 1; j < n; ++j) total = fused(size_of(matrix[j * n + i]), x[j], total);
            y[i] = total;
        });
    }

    // Right-looking, a panel at a time. Its columns lie in `panel` as rows of n; L goes to both triangles of h, so that
    // both substitutions read along rows.
    NASH_FN bool factor(Real* h, Real* diagonal, int n) const {
        bool good = true;
        const int wide = columns(n);
        for (int begin = 0; begin < n; begin += wide) {
            const int end = begin + wide < n ? begin + wide : n;
            this->each(n, [&](int i) {
                for (int j = begin; j < end && j <= i; ++j) panel[(j - begin) * n + i] = h[i * n + j];
            });
            for (int j = begin; j < end; ++j) {
                const Real* own = panel + (j - begin) * n;
                const Real pivot = own[j];
                good = good && pivot > 0;
                const Real inverse = Real(1) / root(pivot);
                this->each(n, [&](int i) {
                    if (i == j) diagonal[j] = inverse;
                    if (i > j) panel[(j - begin) * n + i] = own[i] * inverse;
                });
                this->each(n, [&](int i) {
                    const Real left = i > j ? -own[i] : Real(0);
                    for (int k = j + 1; k < end && k <= i; ++k)
                        panel[(k - begin) * n + i] = fused(left, own[k], panel[(k - begin) * n + i]);
                });
            }
            this->each(n, [&](int i) {
                for (int j = begin; j < end && j < i; ++j) h[i * n + j] = h[j * n + i] = panel[(j - begin) * n + i];
            });
            update(h, n, begin, end);
        }
        return good;
    }
    // Less the panel's product with itself, right of it: a warp takes ROWS rows by COLUMNS times its lanes.
    NASH_FN void update(Real* h, int n, int begin, int end) const {
        const int down = (n - end + ROWS - 1) / ROWS, across = (n - end + LANE * COLUMNS - 1) / (LANE * COLUMNS);
        this->each(down * across * LANE, [&](int index) {
            const int lane = index % LANE, unit = index / LANE;
            const int top = end + unit / across * ROWS, left = end + unit % across * (LANE * COLUMNS) + lane;
            if (left - lane >= top + ROWS) return;  // above the diagonal
            Real value[ROWS][COLUMNS];
            for (int r = 0; r < ROWS; ++r)
                for (int c = 0; c < COLUMNS; ++c) {
                    const int i = top + r, k = left + c * LANE;
                    value[r][c] = i < n && k <= i ? h[i * n + k] : Real(0);
                }
            for (int j = 0; j < end - begin; ++j) {
                const Real* own = panel + j * n;
                Real down_here[ROWS], over[COLUMNS];
                for (int r = 0; r < ROWS; ++r) down_here[r] = top + r < n ? -own[top + r] : Real(0);
                for (int c = 0; c < COLUMNS; ++c) over[c] = left + c * LANE < n ? own[left + c * LANE] : Real(0);
                for (int r = 0; r < ROWS; ++r)
                    for (int c = 0; c < COLUMNS; ++c) value[r][c] = fused(down_here[r], over[c], value[r][c]);
            }
            for (int r = 0; r < ROWS; ++r)
                for (int c = 0; c < COLUMNS; ++c) {
                    const int i = top + r, k = left + c * LANE;
                    if (i < n && k <= i) h[i * n + k] = value[r][c];
                }
        });
    }
    NASH_FN void solve(const Real* h, const Real* diagonal, Real* x, int n) const {
        for (int j = 0; j < n; ++j) {
            const Real value = x[j] * diagonal[j];
            this->each(n, [&](int i) {
                if (i > j) x[i] = fused(-h[j * n + i], value, x[i]);
            });
            this->each(n, [&](int i) {
                if (i == j) x[i] = value;
            });
        }
        for (int j = n - 1; j >= 0; --j) {
            const Real value = x[j] * diagonal[j];
            this->each(n, [&](int i) {
                if (i < j) x[i] = fused(-h[j * n + i], value, x[i]);
            });
            this->each(n, [&](int i) {
                if (i == j) x[i] = value;
            });
        }
    }
};

}  // namespace NASH_NAMESPACE
