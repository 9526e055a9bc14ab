// One Newton step on the outcomes that are played: with rows R (p, n) of payoffs,
//     [diag(w / a^2)  R'] [da ]   [w / a - R' pi]
//     [R              0 ] [dpi] = [W - R a      ],
// by a QR factorisation with pivots of diag(a / sqrt w) R'. Neither the weights nor the rows are squared, so that this
// keeps the digits which the eliminated system of the interior point method loses.
#pragma once

#include "teams.hpp"

namespace NASH_NAMESPACE {

struct Bordered {
    static constexpr double RANK = 1e-13;
    static long doubles(long n, long p) { return n * p + 3 * n + 4 * p; }

    int n, p;
    double *columns, *size, *c, *u, *tau, *top, *left, *dpi;  // columns: p of length n
    long* order;
    int rank = 0;

    Bordered(double* block, long* order_, int n_, int p_) : n(n_), p(p_), order(order_) {
        columns = block, size = columns + (long)n * p, c = size + n, u = c + n;
        tau = u + n, top = tau + p, left = top + p, dpi = left + p;
    }
    double* column(int k) { return columns + (long)k * n; }

    // row(k, i) is the payoff of player i from the k-th played outcome. Adds the step to a, and leaves that of the
    // lottery in `dpi`: zero for outcomes that depend on others.
    template <class F> void step(F row, const double* w, double total, const double* pi, double* a) {
        for (int i = 0; i < n; ++i) {
            size[i] = a[i] / root(w[i]);
            double used = 0;
            for (int k = 0; k < p; ++k) used += row(k, i) * pi[k];
            c[i] = size[i] * (w[i] / a[i] - used);
        }
        for (int k = 0; k < p; ++k) {
            double sum = 0;
            for (int i = 0; i < n; ++i) column(k)[i] = size[i] * row(k, i), sum += row(k, i) * a[i];
            left[k] = total - sum, order[k] = k, dpi[k] = 0;
        }
        factor();
        solve(a);
    }

  private:
    // Householder reflections, the longest remaining column first; c is reflected with them.
    void factor() {
        double first = 0;
        for (rank = 0; rank < n && rank < p; ++rank) {
            const int j = rank, length = n - j;
            double best = -1;
            int pick = j;
            for (int k = j; k < p; ++k) {
                const double square = Row().dot(column(k) + j, column(k) + j, length);
                if (square > best) best = square, pick = k;
            }
            const double norm = root(best);
            if (j == 0) first = norm;
            if (!(norm > RANK * first)) break;
            for (int i = 0; i < n && pick != j; ++i) {
                const double keep = column(j)[i];
                column(j)[i] = column(pick)[i], column(pick)[i] = keep;
            }
            const long keep = order[j];
            order[j] = order[pick], order[pick] = keep;
            double* v = column(j) + j;
            top[j] = v[0] > 0 ? -norm : norm;
            v[0] -= top[j];
            tau[j] = 2 / Row().dot(v, v, length);
            for (int k = j + 1; k < p; ++k) reflect(j, column(k));
            reflect(j, c);
        }
    }
    void reflect(int j, double* x) {
        const double* v = column(j) + j;
        const double by = tau[j] * Row().dot(v, x + j, n - j);
        for (int i = j; i < n; ++i) x[i] -= by * v[i - j];
    }
    void solve(double* a) {
        for (int j = 0; j < rank; ++j) u[j] = (left[order[j]] - Row().dot(column(j), u, j)) / top[j];
        for (int j = rank; j < n; ++j) u[j] = c[j];
        for (int j = rank - 1; j >= 0; --j) {
            const double move = (c[j] - u[j]) / top[j];
            dpi[order[j]] = move;
            for (int i = 0; i < j; ++i) c[i] -= move * column(j)[i];
        }
        for (int j = rank - 1; j >= 0; --j) reflect(j, u);
        for (int i = 0; i < n; ++i) a[i] += size[i] * u[i];
    }
};

}  // namespace NASH_NAMESPACE
