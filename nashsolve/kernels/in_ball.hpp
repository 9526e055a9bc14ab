// Nash bargaining in a ball with linear constraints, in the space of players and constraints alone: the method of
// oracles/gram_interior.py, step by step. One problem at a time, by rows.
#pragma once

#include "teams.hpp"

namespace NASH_NAMESPACE {

struct InBall {
    static constexpr double DONE = 4e-16, FLAT = 1e-7;
    static constexpr int LINES = 16;
    static long doubles(long many) { return 2 * many * many + LINES * many; }
    enum Stop { FOUND, MAX_ITER, NUMERICAL };

    Row team;
    int n, many;  // players; players and constraints
    double *gram, *system, *size, *b, *target, *eta, *s, *pull, *slack, *ratio, *diagonal, *move, *ds, *other, *other_s,
        *aim, *theta, *found;
    double length, total;

    InBall(double* block, int n_, int many_) : n(n_), many(many_) {
        gram = block, system = gram + (long)many * many;
        double* line = system + (long)many * many;
        double** const lines[LINES] = {&size,     &b,    &target, &eta,   &s,       &pull, &slack, &ratio,
                                       &diagonal, &move, &ds,     &other, &other_s, &aim,  &theta, &found};
        for (double** at : lines) *at = line, line += many;
    }

    // gram (many, many) of the rows, players first; limit (many,) what they must exceed; w (n,) the players' weights.
    // Writes the multipliers (many,) for the unit ball and the steps taken.
    Stop run(const double* given, const double* limit, const double* w, int max_iter, double* out, int& steps) {
        steps = 0;
        if (!read(given, limit, w)) {
            for (int i = 0; i < many; ++i) out[i] = 1;
            return NUMERICAL;
        }
        double best = infinity();
        int stalled = 0;
        keep(eta);
        bool ended = false;
        for (; steps <= max_iter; ++steps) {
            const double worth = excess();
            stalled = worth < 0.8 * best ? 0 : stalled + 1;
            if (worth < best) best = worth, keep(eta);
            ended = best <= DONE || stalled >= (best < infinity() ? 5 : 25);
            if (ended || length < FLAT * team.sum(many, [&](int i) { return eta[i]; }) || steps == max_iter) break;
            if (!step()) break;
            answer();
        }
        for (int i = 0; i < many; ++i) out[i] = found[i] / size[i];
        if (!ended && steps == max_iter) return MAX_ITER;
        return best < 1e-9 ? FOUND : NUMERICAL;
    }

  private:
    bool read(const double* given, const double* limit, const double* w) {
        for (int i = 0; i < many; ++i) {
            size[i] = root(given[(long)i * many + i]) + size_of(limit[i]);
            if (!(size[i] > 0)) return false;
        }
        total = team.sum(n, [&](int i) { return w[i]; });
        for (int i = 0; i < many; ++i) {
            b[i] = limit[i] / size[i];
            target[i] = i < n ? w[i] : 0.0;
            eta[i] = i < n ? w[i] : 0.3 * total / n;
            for (int j = 0; j < many; ++j) gram[(long)i * many + j] = given[(long)i * many + j] / size[i] / size[j];
        }
        answer();
        for (int i = 0; i < many; ++i) s[i] = larger(slack[i], 0.1);
        return true;
    }
    void keep(const double* from) {
        for (int i = 0; i < many; ++i) found[i] = from[i];
    }
    // The ball's best answer to eta.
    void answer() {
        team.product(gram, eta, pull, many);
        length = root(larger(team.dot(eta, pull, many), 0.0));
        const double by = larger(length, 1e-300);
        for (int i = 0; i < many; ++i) slack[i] = pull[i] / by - b[i];
    }
    // What the certificate will say, relative to the total weight; inf while somebody loses or a row is broken.
    double excess() {
        for (int i = 0; i < many; ++i)
            if (!(slack[i] > (i < n ? 0.0 : -1e-13))) return infinity();
        for (int i = 0; i < many; ++i) theta[i] = i < n ? target[i] / slack[i] : eta[i];
        team.product(gram, theta, other, many);
        return (root(team.dot(theta, other, many)) - team.dot(b, theta, many)) / total - 1;
    }
    // Predictor and corrector with one factor; false where it breaks down.
    bool step() {
        for (int i = 0; i < many; ++i) {
            ratio[i] = s[i] / eta[i];
            for (int j = 0; j <= i; ++j)
                system[(long)i * many + j] = (gram[(long)i * many + j] - pull[i] * pull[j] / (length * length)) / length;
            system[(long)i * many + i] += ratio[i];
        }
        if (!team.factor(system, diagonal, many)) return false;
        const int rows = many - n;
        direction(target, move, ds);
        for (int i = 0; i < many; ++i) aim[i] = target[i] - move[i] * ds[i];
        double mu = 0, here = 0;
        if (rows) {
            const double t = smaller(1.0, longest(move, ds));
            double after = 0;
            for (int i = n; i < many; ++i) here += eta[i] * s[i], after += (eta[i] + t * move[i]) * (s[i] + t * ds[i]);
            here /= rows, after /= rows;
            const double share = smaller(larger(after / here, 0.0), 1.0);
            mu = here * larger(share * share * share, 0.1 * (1 - t) * (1 - t));
            for (int i = n; i < many; ++i) aim[i] += mu;
        }
        direction(aim, move, ds);
        double far = longest(move, ds);
        if (far < 0.5) {  // jammed: aim at the centre, without the correction
            centre(rows ? 0.7 * here : 0.0);
            direction(aim, other, other_s);
            const double longer = longest(other, other_s);
            if (longer > far) {
                far = longer;
                for (int i = 0; i < many; ++i) move[i] = other[i], ds[i] = other_s[i];
            }
        }
        double t = smaller(1.0, (far > 0.9 ? 0.9995 : 0.9) * far);
        centre(mu);
        if (rows && !descends(t)) {
            // the plain direction descends on the convex function whose minimum the central path is, if only a little
            centre(here);
            direction(aim, move, ds);
            t = smaller(1.0, 0.9 * longest(move, ds));
            while (t > 1e-9 && !descends(t)) t *= 0.5;
        }
        if (!(t > 1e-12)) return false;
        for (int i = 0; i < many; ++i) eta[i] += t * move[i], s[i] += t * ds[i];
        return true;
    }
    void direction(const double* wanted, double* by, double* by_s) {
        for (int i = 0; i < many; ++i) by_s[i] = wanted[i] / eta[i], by[i] = by_s[i] - slack[i];
        team.solve(system, diagonal, by, many);
        for (int i = 0; i < many; ++i) by_s[i] = by_s[i] - s[i] - ratio[i] * by[i];
    }
    // The target of the central path: weights for players, mu for constraints.
    void centre(double mu) {
        for (int i = 0; i < many; ++i) aim[i] = i < n ? target[i] : mu;
    }
    // Whether the step lowers the dual barrier |K' eta| - b' eta - sum aim log eta.
    bool descends(double t) {
        const double before = barrier(0), after = barrier(t);
        return after <= before + 1e-12 * (1 + size_of(before));
    }
    double barrier(double t) {
        for (int i = 0; i < many; ++i) theta[i] = eta[i] + t * move[i];
        team.product(gram, theta, other, many);
        double value = root(larger(team.dot(theta, other, many), 0.0)) - team.dot(b, theta, many);
        for (int i = 0; i < many; ++i) value -= aim[i] * logarithm(theta[i]);
        return value;
    }
    // Largest step that keeps both positive.
    double longest(const double* by, const double* by_s) const {
        double lowest = 0;
        for (int i = 0; i < many; ++i) lowest = smaller(lowest, smaller(by[i] / eta[i], by_s[i] / s[i]));
        return lowest < 0 ? -1 / lowest : infinity();
    }
};

}  // namespace NASH_NAMESPACE
