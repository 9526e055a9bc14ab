// A long table of outcomes, of which few are ever played: the promising ones first, then those that the multipliers find
// to be worth more than all weights together, until there are none.
#pragma once

#include <algorithm>

#include "lottery.hpp"

namespace NASH_NAMESPACE {

struct LongTable {
    static constexpr long DIRECT = 15;  // outcomes per player up to which a table is solved as it is
    static constexpr int ROUNDS = 40;
    static constexpr long FIRST = 8, TOPS = 3, MORE = 10;  // outcomes per player: to begin with, its best, and new ones

    Outcomes table;
    long many, most;  // outcomes; those of the largest part
    int n;
    const double *w, *shift, *scale;
    double *columns, *part, *worth, *alpha, *room;
    long *chosen, *sorted;

    static long largest(long many, long n) {
        const long parts = (FIRST + TOPS + ROUNDS * MORE) * n;
        return many <= DIRECT * n ? 0 : (parts < many ? parts : many);
    }
    static long doubles(long many, long n) {
        return many * n + largest(many, n) * n + 3 * many + n + Lottery::doubles(many, n);
    }
    // payoffs (many, n) by rows; those of player i count from shift[i] and in units of 1 / scale[i].
    LongTable(double* block, long many_, int n_, const double* payoffs, const double* shift, const double* scale,
              const double* w_)
        : many(many_), most(largest(many_, n_)), n(n_), w(w_) {
        columns = block, part = columns + many * n, worth = part + most * n;
        alpha = worth + many, chosen = (long*)(alpha + n), sorted = chosen + many, room = (double*)(sorted + many);
        constexpr long TILE = 64;
        for (long begin = 0; begin < many; begin += TILE) {
            const long end = begin + TILE < many ? begin + TILE : many;
            for (int i = 0; i < n; ++i)
                for (long k = begin; k < end; ++k) columns[i * many + k] = (payoffs[k * n + i] - shift[i]) * scale[i];
        }
        table = {columns, many, n};
    }

    // Writes the lottery (many,) and the gains (n,).
    Lottery::Stop run(int max_iter, double time_limit, double rtol, double* pi, double* gains, int& steps) {
        const double until = seconds() + time_limit;
        steps = 0;
        if (many > DIRECT * n) {
            long count = promising();
            for (int round = 0; round < ROUNDS; ++round) {
                Lottery small(room, gather(count), w, rtol, until);
                int used = 0;
                const Lottery::Stop stop = small.run(max_iter - steps, used);
                steps += used;
                const bool early = stop == Lottery::MAX_ITER || stop == Lottery::TIME;
                const long fresh = early ? 0 : missing(small.found + count, stop == Lottery::BLOCKED, small.total, count);
                if (fresh) {
                    count += fresh;
                    continue;
                }
                for (long k = 0; k < many; ++k) pi[k] = 0;
                for (long k = 0; k < count; ++k) pi[chosen[k]] = small.found[k];
                for (int i = 0; i < n; ++i) gains[i] = small.found[count + i];
                return stop;
            }
        }
        Lottery whole(room, table, w, rtol, until);
        int used = 0;
        const Lottery::Stop stop = whole.run(max_iter - steps, used);
        steps += used;
        for (long k = 0; k < many; ++k) pi[k] = whole.found[k];
        for (int i = 0; i < n; ++i) gains[i] = whole.found[many + i];
        return stop;
    }

  private:
    Outcomes gather(long count) const {
        for (int i = 0; i < n; ++i)
            for (long k = 0; k < count; ++k) part[i * count + k] = columns[i * many + chosen[k]];
        return {part, count, n};
    }
    // The outcomes with the largest weighted sums, and every player's best ones, in the order of the table.
    long promising() {
        table.worth(w, worth);
        for (long k = 0; k < many; ++k) {
            sorted[k] = k;
            if (!(worth[k] > -infinity())) worth[k] = -infinity();  // payoffs may overflow, and a sort needs an order
        }
        lead(many, FIRST * n);
        long count = FIRST * n;
        for (long k = 0; k < count; ++k) chosen[k] = sorted[k];
        for (int i = 0; i < n; ++i) {
            const double* column = table.column(i);
            long top[TOPS] = {-1, -1, -1};
            for (long k = 0; k < many; ++k) {
                if (top[TOPS - 1] >= 0 && !(column[k] > column[top[TOPS - 1]])) continue;
                int place = TOPS - 1;
                for (; place && (top[place - 1] < 0 || column[k] > column[top[place - 1]]); --place)
                    top[place] = top[place - 1];
                top[place] = k;
            }
            for (const long k : top) chosen[count++] = k;
        }
        return unique(count);
    }
    long unique(long count) {
        for (long k = 0; k < many; ++k) sorted[k] = 0;
        for (long k = 0; k < count; ++k) sorted[chosen[k]] = 1;
        long kept = 0;
        for (long k = 0; k < many; ++k)
            if (sorted[k]) chosen[kept++] = k;
        return kept;
    }
    // Appends the outcomes that are worth more than they may be, the worst offenders if they are many; how many.
    long missing(const double* gains, bool blocked, double total, long count) {
        // a part that nobody can agree on shows by the weights that block it which outcomes are missing
        for (int i = 0; i < n; ++i) alpha[i] = blocked ? gains[i] : w[i] / gains[i];
        table.worth(alpha, worth);
        for (long k = 0; k < count; ++k) worth[chosen[k]] = -infinity();
        const double limit = blocked ? 0.0 : total * (1 + 1e-14);
        long fresh = 0;
        for (long k = 0; k < many; ++k)
            if (worth[k] > limit) sorted[fresh++] = k;
        if (fresh > MORE * n) {
            lead(fresh, MORE * n);
            fresh = MORE * n;
        }
        for (long k = 0; k < fresh; ++k) chosen[count + k] = sorted[k];
        return fresh;
    }
    // Brings those of `sorted` that are worth most to its head.
    void lead(long count, long wanted) {
        std::nth_element(sorted, sorted + wanted, sorted + count,
                         [&](long one, long other) { return worth[one] > worth[other]; });
    }
};

}  // namespace NASH_NAMESPACE
