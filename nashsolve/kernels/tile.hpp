// A tile of W threads on one problem, for CUDA: W = 8, 16, 32 lanes of a warp, or a block of 64. Every loop is a phase
// that ends in a barrier, and every sum a tree in fixed order, so that results repeat to the bit. Compiled for the host
// the phases run one after the other with the same sums: tests run there what a GPU would compute.
#pragma once
#include "teams.hpp"

namespace NASH_NAMESPACE {

template <int W, class Real = double> struct Tile {
    using S = Real;
    static constexpr int GROUP = 0;  // no coordinate sweeps: they would wait for one thread at a time

    NASH_FN Tile<W, float> narrow() const {  // the same team, in floats
        Tile<W, float> team;
#if defined(__CUDA_ARCH__)
        team.shared = (float*)shared;
#endif
        return team;
    }

#if defined(__CUDA_ARCH__)
    Real* shared;  // room for W, for a block
    static NASH_FN int rank() { return threadIdx.x % W; }
    static NASH_FN unsigned mask() {
        return W >= 32 ? 0xFFFFFFFFu : ((1u << (W % 32)) - 1u) << ((threadIdx.x % 32) / W * W);
    }
    static NASH_FN void sync() {
        if (W > 32)
            __syncthreads();
        else
            __syncwarp(mask());
    }
    template <class F> NASH_FN void each(int n, F f) const {
        for (int i = rank(); i < n; i += W) f(i);
        sync();
    }
    template <class F, class G> NASH_FN Real tree(int n, Real empty, F f, G join) const {
        Real value = empty;
        bool some = false;
        for (int i = rank(); i < n; i += W) value = some ? join(value, f(i)) : f(i), some = true;
        if constexpr (W > 32) {
            __syncthreads();
            shared[rank()] = value;
            for (int step = W / 2; step; step /= 2) {
                __syncthreads();
                if (rank() < step) shared[rank()] = join(shared[rank()], shared[rank() + step]);
            }
            __syncthreads();
            return shared[0];
        } else {
            for (int step = W / 2; step; step /= 2) value = join(value, __shfl_down_sync(mask(), value, step, W));
            return __shfl_sync(mask(), value, 0, W);
        }
    }
#else
    template <class F> NASH_FN void each(int n, F f) const {
        for (int i = 0; i < n; ++i) f(i);
    }
    template <class F, class G> Real tree(int n, Real empty, F f, G join) const {
        Real value[W];
        for (int k = 0; k < W; ++k) {
            value[k] = empty;
            for (int i = k; i < n; i += W) value[k] = i == k ? f(i) : join(value[k], f(i));
        }
        for (int step = W / 2; step; step /= 2)
            for (int k = 0; k < step; ++k) value[k] = join(value[k], value[k + step]);
        return value[0];
    }
#endif

    template <class F> NASH_FN Real sum(int n, F f) const {
        return tree(n, Real(0), f, [](Real a, Real b) { return a + b; });
    }
    template <class F> NASH_FN Real least(int n, F f) const {
        return tree(n, Real(infinity()), f, [](Real a, Real b) { return smaller(a, b); });
    }
    template <class F> NASH_FN Real most(int n, F f) const {
        return tree(n, -Real(infinity()), f, [](Real a, Real b) { return larger(a, b); });
    }
    NASH_FN bool any_of(bool m) const { return m; }

    NASH_FN void product(const Real* matrix, const Real* x, Real* y, int n) const {
        each(n, [&](int i) {
            Real total = matrix[i * n] * x[0];
            for (int j = 1; j < n; ++j) total = fused(matrix[i * n + j], x[j], total);
            y[i] = total;
        });
    }
    NASH_FN void product_of_sizes(const Real* matrix, const Real* x, Real* y, int n) const {
        each(n, [&](int i) {
            Real total = size_of(matrix[i * n]) * x[0];
            for (int j = 1; j < n; ++j) total = fused(size_of(matrix[i * n + j]), x[j], total);
            y[i] = total;
        });
    }
    // gram is only read: the caller gives the mean of its halves, and unequal ones are reported.
    NASH_FN Real halves(const Real* gram, const Real* scale, Real* unit, int n) const {
        each(n, [&](int i) {
            for (int j = 0; j < n; ++j) unit[i * n + j] = (scale[i] * gram[i * n + j]) * scale[j];
        });
        return most(n, [&](int i) {
            Real worst = 0;
            for (int j = 0; j < i; ++j) {
                const Real gap = size_of(unit[i * n + j] - unit[j * n + i]);
                worst = gap <= worst ? worst : gap;
            }
            return worst;
        });
    }
    NASH_FN bool within(const Real* unit, int n, Real factor, Real*) const {
        return sum(n, [&](int i) {
            Real outside = 0;
            for (int j = 0; j < i; ++j)
                outside += unit[i * n + j] * unit[i * n + j] <= factor * unit[i * n + i] * unit[j * n + j] ? 0 : 1;
            return outside;
        }) == 0;
    }
    // Column by column; each thread holds the rows i = rank, rank + W, ...
    NASH_FN bool factor(Real* h, Real* diagonal, int n) const {
        bool good = true;
        for (int j = 0; j < n; ++j) {
            const Real pivot = h[j * n + j];
            good = good && pivot > 0;
            const Real inverse = Real(1) / root(pivot);
            each(n, [&](int i) {
                if (i == j) diagonal[j] = inverse;
                if (i > j) h[i * n + j] = h[i * n + j] * inverse;
            });
            each(n, [&](int i) {
                const Real left = i > j ? -h[i * n + j] : 0;
                for (int k = j + 1; k <= i; ++k) h[i * n + k] = fused(left, h[k * n + j], h[i * n + k]);
            });
        }
        return good;
    }
    NASH_FN void solve(const Real* h, const Real* diagonal, Real* x, int n) const {
        for (int j = 0; j < n; ++j) {
            const Real value = x[j] * diagonal[j];
            each(n, [&](int i) {
                if (i > j) x[i] = fused(-h[i * n + j], value, x[i]);
            });
            each(n, [&](int i) {
                if (i == j) x[i] = value;
            });
        }
        for (int j = n - 1; j >= 0; --j) {
            const Real value = x[j] * diagonal[j];
            each(n, [&](int i) {
                if (i < j) x[i] = fused(-h[j * n + i], value, x[i]);
            });
            each(n, [&](int i) {
                if (i == j) x[i] = value;
            });
        }
    }
};

}  // namespace NASH_NAMESPACE
