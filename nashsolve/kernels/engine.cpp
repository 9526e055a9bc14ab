// The kernel for one instruction set: NASH_NAMESPACE and NASH_NAME come from the build.
#include "engine.hpp"

#include <cstdlib>
#include <cstring>

#include "in_ball.hpp"
#include "long_table.hpp"
#include "solve.hpp"
#if defined(NASH_TILES)
#include "tile.hpp"
#endif

namespace NASH_NAMESPACE {
namespace {

constexpr int LARGEST_LANE = 8;

// One block a thread, kept between calls: fresh memory of this size costs more than a solve in it. The few problems that
// need more than KEPT give it back.
struct Block {
    static constexpr long KEPT = 1L << 22;  // doubles, 32 MiB

    double* start = nullptr;
    long size = 0;
    ~Block() { std::free(start); }
    void trim() {
        if (size <= KEPT) return;
        std::free(start);
        start = nullptr, size = 0;
    }
    double* of(long doubles) {
        if (doubles > size) {
            std::free(start);
            start = (double*)std::aligned_alloc(64, ((doubles * 8 + 63) / 64) * 64);
            size = start ? doubles : 0;
        }
        return start;
    }
};
thread_local Block room;

// Loads and stores of one problem for a double, of LANES problems side by side for a pack.
inline void load(double& to, const double* from, long) { to = *from; }
inline void load(Pack& to, const double* from, long step) {
    for (int k = 0; k < LANES; ++k) to[k] = from[k * step];
}
inline void keep(double x, double* to, long, int) { *to = x; }
inline void keep(Pack x, double* to, long step, int live) {
    for (int k = 0; k < live; ++k) to[k * step] = x[k];
}
inline void keep(double x, long long* to, int) { *to = (long long)x; }
inline void keep(Pack x, long long* to, int live) {
    for (int k = 0; k < live; ++k) to[k] = (long long)x[k];
}
inline int worst_of(double code, int) { return (int)code; }
inline int worst_of(Pack code, int live) {
    int worst = 0;
    for (int k = 0; k < live; ++k) {
        const int one = (int)code[k];
        worst = worst < 0 || one < 0 ? -1 : (one > worst ? one : worst);
    }
    return worst;
}

template <class S> struct Desk {  // the arrays of one solve, carved from one block
    S *gram, *unit, *w, *scale, *d, *unit_d, *lines, *numbers;
    Room<S> room;
    static constexpr long doubles(long n) { return (4 * n + PATH_LINES + LINES + 4) * n + NUMBERS; }
    NASH_FN Desk(S* block, int n) {
        gram = block, unit = gram + (long)n * n, room.square = unit + (long)n * n;
        room.lower = room.square + (long)n * n, room.lines = room.lower + (long)n * n;
        lines = room.lines + PATH_LINES * n, w = lines + LINES * n, scale = w + n, d = scale + n, unit_d = d + n;
        numbers = unit_d + n;
    }
};

template <class S> NASH_FN void read(const Batch& p, long item, long step, int n, Desk<S>& desk, S& radius) {
    const double* gram = p.gram + item * n * n;
    if constexpr (sizeof(S) == 8)
        std::memcpy(desk.gram, gram, (long)n * n * 8);
    else
        for (long k = 0; k < (long)n * n; ++k) load(desk.gram[k], gram + k, step * n * n);
    for (int i = 0; i < n; ++i)
        if (p.weights)
            load(desk.w[i], p.weights + item * p.weights_step + i, step * p.weights_step);
        else
            desk.w[i] = Kind<S>::all(1);
    for (int i = 0; p.disagreement && i < n; ++i)
        load(desk.d[i], p.disagreement + item * p.disagreement_step + i, step * p.disagreement_step);
    radius = Kind<S>::all(0);
    if (p.radius) load(radius, p.radius + item * p.radius_step, step * p.radius_step);
}

template <class S> NASH_FN void read_start(const Batch& p, long item, long step, int n, S* a) {
    for (int i = 0; i < n; ++i)
        if (p.start)
            load(a[i], p.start + item * n + i, step * n);
        else
            a[i] = Kind<S>::all(1);
}

template <class T> NASH_FN int one(const Batch& p, long item, int live, int n, typename T::S* block) {
    using S = typename T::S;
    const long step = live > 1 ? 1 : 0;
    Desk<S> desk(block, n);
    S radius, iterations;
    read(p, item, step, n, desk, radius);
    const Settings how{p.gram_error, p.rtol, p.max_iter, p.definite};
    read_start(p, item, step, n, desk.lines);
    const bool natural = !p.radius, warm = p.start != nullptr;
    S* none = nullptr;
    const S code = p.disagreement
                       ? solve_from<true>(T(), n, desk.gram, desk.w, desk.d, desk.unit_d, radius, natural, warm, how,
                                          desk.scale, desk.unit, desk.lines, desk.numbers, iterations, desk.room)
                       : solve_from<false>(T(), n, desk.gram, desk.w, none, none, radius, natural, warm, how,
                                           desk.scale, desk.unit, desk.lines, desk.numbers, iterations, desk.room);
    const long plane = p.count * n;
    for (int i = 0; i < n; ++i) {
        for (int k = 0; k < (p.whole ? LINES : 1); ++k)
            keep(desk.lines[k * n + i], p.alpha + k * plane + item * n + i, n, live);
        if (p.scale) keep(desk.scale[i], p.scale + item * n + i, n, live);
    }
    for (int k = 0; p.numbers && k < NUMBERS; ++k) keep(desk.numbers[k], p.numbers + k * p.count + item, 1, live);
    if constexpr (sizeof(S) == 8) {
        if (p.unit) std::memcpy(p.unit + item * n * n, desk.unit, (long)n * n * 8);
    } else {
        for (long k = 0; p.unit && k < (long)n * n; ++k) keep(desk.unit[k], p.unit + item * n * n + k, (long)n * n, live);
    }
    if (p.status) keep(code, p.status + item, live);
    if (p.n_iter) keep(iterations, p.n_iter + item, live);
    return worst_of(code, live);
}

template <class T> NASH_FN int one_iterate(const Batch& p, long item, int live, int n, typename T::S* block) {
    using S = typename T::S;
    Desk<S> desk(block, n);
    S radius, iterations;
    read(p, item, live > 1 ? 1 : 0, n, desk, radius);
    S* a = desk.lines;
    read_start(p, item, live > 1 ? 1 : 0, n, a);
    const S stop =
        start_and_iterate(T(), n, desk.gram, desk.w, a, p.noise, p.max_iter, desk.room, iterations);
    for (int i = 0; i < n; ++i) keep(a[i], p.alpha + item * n + i, n, live);
    keep(stop, p.status + item, live);
    keep(iterations, p.n_iter + item, live);
    return 0;
}

// The certificate of a given alpha (in start) for a checked Gram.
template <class T> NASH_FN int one_certify(const Batch& p, long item, int live, int n, typename T::S* block) {
    using S = typename T::S;
    Desk<S> desk(block, n);
    S radius;
    desk.numbers[UNEVEN] = Kind<S>::all(0);
    const long step = live > 1 ? 1 : 0;
    read(p, item, step, n, desk, radius);
    read_start(p, item, step, n, desk.lines);
    if (!p.radius) radius = root(T().sum(n, [&](int i) { return desk.w[i]; }));
    const S code = certify(T(), n, desk.gram, desk.w, p.disagreement ? desk.d : nullptr,
                           radius, p.gram_error, p.rtol, Kind<S>::all(CONVERGED), desk.lines, desk.numbers,
                           desk.room);
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < LINES; ++k)
            keep(desk.lines[k * n + i], p.alpha + k * p.count * n + item * n + i, n, live);
    for (int k = 0; k < NUMBERS; ++k) keep(desk.numbers[k], p.numbers + k * p.count + item, 1, live);
    keep(code, p.status + item, live);
    return worst_of(code, live);
}

// Scale and unit Gram; -1 where a Gram needs words, or the mean of its halves.
template <class T> NASH_FN int one_examine(const Batch& p, long item, int live, int n, typename T::S* block) {
    using S = typename T::S;
    Desk<S> desk(block, n);
    S radius, apart;
    read(p, item, live > 1 ? 1 : 0, n, desk, radius);
    const Settings how{p.gram_error, p.rtol, 0, true};
    const auto good = examine(T(), n, desk.gram, desk.scale, desk.unit, apart, how, desk.room);
    for (int i = 0; i < n; ++i) keep(desk.scale[i], p.scale + item * n + i, n, live);
    for (long k = 0; k < (long)n * n; ++k) keep(desk.unit[k], p.unit + item * n * n + k, (long)n * n, live);
    return worst_of(select(good & (apart <= 0), Kind<S>::all(0), Kind<S>::all(LEFT_TO_PYTHON)), live);
}

// The inverse of the symmetric positive definite matrix in gram; NaN where a pivot is not positive.
template <class T> NASH_FN int one_inverse(const Batch& p, long item, int live, int n, typename T::S* block) {
    using S = typename T::S;
    Desk<S> desk(block, n);
    S radius, *column = desk.w, *diagonal = desk.room.lines;
    const T team;
    read(p, item, live > 1 ? 1 : 0, n, desk, radius);
    const auto good = team.factor(desk.gram, diagonal, n);
    for (int j = 0; j < n; ++j) {
        for (int i = 0; i < n; ++i) column[i] = Kind<S>::all(i == j);
        team.solve(desk.gram, diagonal, column, n);
        for (int i = j; i < n; ++i) {
            const S value = select(good, column[i], Kind<S>::all(not_a_number()));
            keep(value, p.unit + item * n * n + i * n + j, (long)n * n, live);
            keep(value, p.unit + item * n * n + j * n + i, (long)n * n, live);
        }
    }
    return 0;
}

enum Job { SOLVE, ITERATE, CERTIFY, EXAMINE, INVERT };
template <class T, Job JOB> NASH_FN int work(const Batch& p, long item, int live, int n, typename T::S* block) {
    if constexpr (JOB == SOLVE) return one<T>(p, item, live, n, block);
    if constexpr (JOB == ITERATE) return one_iterate<T>(p, item, live, n, block);
    if constexpr (JOB == EXAMINE) return one_examine<T>(p, item, live, n, block);
    if constexpr (JOB == INVERT) return one_inverse<T>(p, item, live, n, block);
    return one_certify<T>(p, item, live, n, block);
}

// Full packs of problems, then one by one, to the same bits.
template <Job JOB> int lanes(const Batch& p, long begin, long end) {
    const int n = p.n;
    int worst = 0;
    alignas(64) Pack packs[Desk<Pack>::doubles(LARGEST_LANE)];
    long item = begin;
    for (; item + LANES <= end; item += LANES) {
        const int code = work<Lane<Pack>, JOB>(p, item, LANES, n, packs);
        worst = code < 0 || worst < 0 ? -1 : (code > worst ? code : worst);
    }
    double* block = (double*)packs;
    for (; item < end; ++item) {
        const int code = work<Lane<double>, JOB>(p, item, 1, n, block);
        worst = code < 0 || worst < 0 ? -1 : (code > worst ? code : worst);
    }
    return worst;
}

template <Job JOB> int rows(const Batch& p, long begin, long end) {
    double* block = room.of(Desk<double>::doubles(p.n));
    if (!block) return -1;
    int worst = 0;
    for (long item = begin; item < end; ++item) {
        const int code = work<Row, JOB>(p, item, 1, p.n, block);
        worst = code < 0 || worst < 0 ? -1 : (code > worst ? code : worst);
    }
    room.trim();
    return worst;
}

#if defined(NASH_TILES)
template <int W, Job JOB> int tiles(const Batch& p, long begin, long end) {
    double* block = room.of(Desk<double>::doubles(p.n));
    if (!block) return -1;
    int worst = 0;
    for (long item = begin; item < end; ++item) {
        const int code = work<Tile<W>, JOB>(p, item, 1, p.n, block);
        worst = code < 0 || worst < 0 ? -1 : (code > worst ? code : worst);
    }
    return worst;
}

// As a GPU picks: the smallest tile that has a thread for every player.
template <Job JOB> int run(const Batch& p, long begin, long end) {
    if (p.n <= 8) return tiles<8, JOB>(p, begin, end);
    if (p.n <= 16) return tiles<16, JOB>(p, begin, end);
    return p.n <= 32 ? tiles<32, JOB>(p, begin, end) : tiles<64, JOB>(p, begin, end);
}
#else
template <Job JOB> int run(const Batch& p, long begin, long end) {
    return p.n <= LARGEST_LANE ? lanes<JOB>(p, begin, end) : rows<JOB>(p, begin, end);
}

#endif

int in_ball(int n, int many, const double* gram, const double* limit, const double* w, int max_iter, double* eta,
            int* steps) {
    double* block = room.of(InBall::doubles(many));
    if (!block) return -1;
    const int stop = InBall(block, n, many).run(gram, limit, w, max_iter, eta, *steps);
    room.trim();
    return stop;
}

int lottery(long many, int n, const double* payoffs, const double* shift, const double* scale, const double* w,
            int max_iter, double time_limit, double rtol, double* pi, double* gains, int* steps) {
    double* block = room.of(LongTable::doubles(many, n));
    if (!block) return -1;
    const int stop =
        LongTable(block, many, n, payoffs, shift, scale, w).run(max_iter, time_limit, rtol, pi, gains, *steps);
    room.trim();
    return stop;
}

}  // namespace

extern const Engine engine = {NASH_NAME, run<SOLVE>, run<ITERATE>, run<CERTIFY>, run<EXAMINE>, run<INVERT>, in_ball,
                              lottery};

}  // namespace NASH_NAMESPACE
