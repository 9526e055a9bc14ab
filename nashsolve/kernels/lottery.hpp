// Nash bargaining over lotteries: the interior point method of oracles/lottery.py, step by step.
#pragma once

#include <time.h>

#include "bordered.hpp"
#include "outcomes.hpp"

namespace NASH_NAMESPACE {

inline double seconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// x holds the lottery and the gains, y the reduced payoffs and alpha: at the solution x y is 0 and w.
struct Lottery {
    static constexpr double DONE = 2e-15, CLOSE = 1e-3, NEAR = 1e-9, BEGUN = 0.09;
    static constexpr int LINES = 12;
    static constexpr long PLAYED = 4;  // times the players: more outcomes are never polished
    enum Stop { FOUND, MAX_ITER, TIME, BLOCKED, NUMERICAL };
    static long doubles(long many, long n) {
        return LINES * (many + n) + many + (n + 4) * n + Outcomes::SCALED + Bordered::doubles(n, PLAYED * n) +
               3 * PLAYED * n;
    }

    Outcomes table;
    long many, all;  // outcomes; outcomes and players
    int n;
    double goal, until, total;  // `until`: when to stop, by seconds()
    const double* w;
    double *x, *y, *dx, *dy, *ratio, *push, *aim, *gap, *other, *other_y, *found, *judged;  // (all,)
    double *worth, *system, *diagonal, *miss, *right, *alpha, *scaled, *room, *share;
    long *active, *order;
    double best, rest;

    Lottery(double* block, Outcomes table_, const double* w_, double rtol, double until_)
        : table(table_), many(table_.many), all(table_.many + table_.n), n(table_.n), until(until_), w(w_) {
        double** const lines[LINES] = {&x, &y, &dx, &dy, &ratio, &push, &aim, &gap, &other, &other_y, &found, &judged};
        for (double** at : lines) *at = block, block += all;
        worth = block, system = worth + many, diagonal = system + (long)n * n, miss = diagonal + n, right = miss + n;
        alpha = right + n, scaled = alpha + n, room = scaled + Outcomes::SCALED;
        share = room + Bordered::doubles(n, PLAYED * n);
        active = (long*)(share + PLAYED * n), order = active + PLAYED * n;
        goal = larger(DONE, 0.5 * rtol * rtol);
        total = Row().sum(n, [&](int i) { return w[i]; });
    }

    // Leaves the lottery and the gains in `found`; where it is blocked, the weights that block in place of the gains.
    Stop run(int max_iter, int& steps) {
        begin();
        int stalled = 0;
        double tried = infinity();
        Stop stop = MAX_ITER;
        for (steps = 0; steps <= max_iter; ++steps) {
            rest = total_of(many, [&](auto kind, long k) {
                using S = decltype(kind);
                return at<S>(x + k) * at<S>(y + k);
            });
            ++stalled;
            if (rest < BEGUN * total || steps == max_iter) {  // before that no iterate is near
                const double excess = judge(x);
                if (excess < 0.9 * best) stalled = 0;
                if (excess <= best) best = excess, take();
                if (goal < best && best < smaller(CLOSE, 0.03 * tried)) tried = best, polish();
            }
            if (best <= goal || (stalled >= 4 && best < NEAR)) return FOUND;
            if (blocked()) return BLOCKED;
            if (stalled >= (best < infinity() ? 25 : 60)) stop = NUMERICAL;
            if (stop == NUMERICAL || steps == max_iter) break;
            if (seconds() > until) {
                stop = TIME;
                break;
            }
            if (!step()) {
                stop = best < NEAR ? FOUND : NUMERICAL;
                break;
            }
        }
        if (goal < best && best < 1e-5) {
            polish();
            if (best < NEAR) stop = FOUND;
        }
        return stop;
    }

  private:
    void begin() {
        table.worth(w, worth);
        double sum = 0;
        for (long k = 0; k < many; ++k) {
            y[k] = total - 0.9 * worth[k];
            x[k] = (0.1 * total / (double)many) / y[k];
            sum += x[k];
        }
        table.mean(x, x + many);
        for (int i = 0; i < n; ++i) {
            y[many + i] = 0.9 * w[i];
            x[many + i] = larger(x[many + i], w[i] / y[many + i]);
            found[many + i] = x[many + i];
        }
        for (long k = 0; k < many; ++k) found[k] = x[k] / sum;
        best = infinity();
    }
    void take() {
        double* const old = found;
        found = judged, judged = old;
    }
    // Whether alpha proves that nobody can agree, since no outcome is worth anything to it.
    bool blocked() {
        const double least = least_of(infinity(), many, [&](auto kind, long k) { return at<decltype(kind)>(y + k); });
        if (!(least >= total)) return false;
        const double sum = total_of(many, [&](auto kind, long k) { return at<decltype(kind)>(x + k); });
        const double weight = Row().sum(n, [&](int i) { return y[many + i]; });
        for (long k = 0; k < many; ++k) found[k] = x[k] / sum;
        for (int i = 0; i < n; ++i) found[many + i] = y[many + i] / weight;
        return true;
    }
    // Excess of the normalized lottery, which goes to `judged` with its gains; inf while somebody loses.
    double judge(const double* pi) {
        const double sum = total_of(many, [&](auto kind, long k) { return at<decltype(kind)>(pi + k); });
        sweep(many, [&](auto kind, long k) { put(judged + k, at<decltype(kind)>(pi + k) / sum); });
        table.mean(judged, judged + many);
        for (int i = 0; i < n; ++i) {
            if (!(judged[many + i] > 0)) return infinity();
            alpha[i] = w[i] / judged[many + i];
            if (!(alpha[i] < infinity())) return infinity();
        }
        table.worth(alpha, worth);
        const double least =
            least_of(infinity(), many, [&](auto kind, long k) { return -at<decltype(kind)>(worth + k); });
        return -least / total - 1;
    }

    // Predictor and corrector with one factor; false where rounding has eaten the system.
    bool step() {
        prepare();
        if (!Row().factor(system, diagonal, n)) return false;
        direction(gap, dx, dy);
        double t = smaller(1.0, longest(dx, dy));
        const double mu = rest / (double)many;
        const double after = total_of(many, [&](auto kind, long k) {
            using S = decltype(kind);
            return (at<S>(x + k) + t * at<S>(dx + k)) * (at<S>(y + k) + t * at<S>(dy + k));
        }) / rest;
        const double left = smaller(larger(after, 0.0), 1.0);
        const double centre = mu * larger(left * left * left, 0.1 * (1 - t) * (1 - t));
        sweep(all, [&](auto kind, long k) {
            using S = decltype(kind);
            put(aim + k, at<S>(gap + k) - at<S>(dx + k) * at<S>(dy + k));
        });
        for (long k = 0; k < many; ++k) aim[k] += centre;
        direction(aim, dx, dy);
        double far = longest(dx, dy);
        if (far < 0.2) far = centred(mu, far);
        t = smaller(1.0, (far > 0.9 ? 0.9995 : 0.9) * far);
        if (!(t > 1e-12)) return false;
        sweep(all, [&](auto kind, long k) {
            using S = decltype(kind);
            put(x + k, at<S>(x + k) + t * at<S>(dx + k));
        });
        for (int i = 0; i < n; ++i) y[many + i] += t * dy[many + i];
        table.worth(y + many, y);  // anew, so that no rounding gathers in the reduced payoffs
        for (long k = 0; k < many; ++k) y[k] = larger(total - y[k], 1e-300);
        return true;
    }
    void prepare() {
        sweep(all, [&](auto kind, long k) {
            using S = decltype(kind);
            const S one = at<S>(x + k), other = at<S>(y + k);
            put(ratio + k, one / other);
            put(gap + k, -(one * other));
        });
        table.square(ratio, scaled, system);
        table.mean(x, miss);
        for (int i = 0; i < n; ++i) {
            system[(long)i * n + i] += ratio[many + i];
            miss[i] = x[many + i] - miss[i];
            gap[many + i] += w[i];
        }
    }
    void direction(const double* wanted, double* by, double* by_y) {
        sweep(all, [&](auto kind, long k) {
            using S = decltype(kind);
            put(push + k, at<S>(wanted + k) / at<S>(y + k));
        });
        table.mean(push, right);
        for (int i = 0; i < n; ++i) right[i] = miss[i] + push[many + i] - right[i];
        Row().solve(system, diagonal, right, n);
        for (int i = 0; i < n; ++i) by_y[many + i] = right[i], right[i] = -right[i];
        table.worth(right, by_y);
        sweep(all, [&](auto kind, long k) {
            using S = decltype(kind);
            put(by + k, at<S>(push + k) - at<S>(ratio + k) * at<S>(by_y + k));
        });
    }
    // Jammed: aim at the centre, without a correction that rests on a full step, if that leads farther.
    double centred(double mu, double far) {
        for (const double part : {0.5, 1.0}) {
            for (long k = 0; k < all; ++k) aim[k] = gap[k] + (k < many ? part * mu : 0.0);
            direction(aim, other, other_y);
            const double length = longest(other, other_y);
            if (!(length > far)) continue;
            far = length;
            for (long k = 0; k < all; ++k) dx[k] = other[k], dy[k] = other_y[k];
        }
        return far;
    }
    // Largest step that keeps all positive; alpha and the gains are tied by a product, so all move together.
    double longest(const double* by, const double* by_y) const {
        const double lowest = least_of(0.0, all, [&](auto kind, long k) {
            using S = decltype(kind);
            return smaller(at<S>(by + k) / at<S>(x + k), at<S>(by_y + k) / at<S>(y + k));
        });
        return lowest < 0 ? -1 / lowest : infinity();
    }

    // Which outcomes are played is not always clear from the iterate, so several guesses are tried.
    void polish() {
        const double sum = total_of(many, [&](auto kind, long k) { return at<decltype(kind)>(x + k); });
        for (const double guess : {1.0, 1e-3, 1e3}) {
            if (best <= goal) return;
            long count = 0;
            for (long k = 0; k < many && count <= PLAYED * n; ++k)
                if (x[k] * total > guess * y[k] * sum) {
                    if (count < PLAYED * n) active[count] = k;
                    ++count;
                }
            if (count && count <= PLAYED * n) polish((int)count);
        }
    }
    // Newton on the outcomes in `active`.
    void polish(int count) {
        Bordered newton(room, order, n, count);
        for (int k = 0; k < count; ++k) share[k] = found[active[k]];
        for (int i = 0; i < n; ++i) miss[i] = w[i] / found[many + i];
        const auto row = [&](int k, int i) { return table.column(i)[active[k]]; };
        for (int round = 0; round < 4; ++round) {
            newton.step(row, w, total, share, miss);
            bool good = true;
            for (int i = 0; i < n; ++i) good = good && miss[i] > 0;
            for (int k = 0; k < count; ++k) share[k] += newton.dpi[k], good = good && share[k] >= -1e-9;
            if (!good) return;
            for (long k = 0; k < many; ++k) push[k] = 0;
            for (int k = 0; k < count; ++k) push[active[k]] = larger(share[k], 0.0);
            const double excess = judge(push);
            if (!(excess < best)) return;
            best = excess, take();
            if (best <= goal) return;
        }
    }
};

}  // namespace NASH_NAMESPACE
