// The kernel for one instruction set: NASH_NAMESPACE and NASH_NAME come from the build.
#include "engine.hpp"

#include <cstdlib>
#include <cstring>

#include "in_ball.hpp"
#include "long_table.hpp"
#include "solve.hpp"
#include "wide.hpp"
#if defined(NASH_TILES)
#include "block.hpp"
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
inline void load(Wide& to, const double* from, long step) {
    load(to.low, from, step), load(to.high, from + LANES * step, step);
}
inline void keep(double x, double* to, long, int) { *to = x; }
inline void keep(Pack x, double* to, long step, int live) {
    for (int k = 0; k < live; ++k) to[k * step] = x[k];
}
inline void keep(Wide x, double* to, long step, int) {
    keep(x.low, to, step, LANES), keep(x.high, to + LANES * step, step, LANES);
}
inline void keep(double x, long long* to, int) { *to = (long long)x; }
inline void keep(Pack x, long long* to, int live) {
    for (int k = 0; k < live; ++k) to[k] = (long long)x[k];
}
inline void keep(Wide x, long long* to, int) { keep(x.low, to, LANES), keep(x.high, to + LANES, LANES); }
inline int worst_of(double code, int) { return (int)code; }
inline int worst_of(Pack code, int live) {
    int worst = 0;
    for (int k = 0; k < live; ++k) {
        const int one = (int)code[k];
        worst = worst < 0 || one < 0 ? -1 : (one > worst ? one : worst);
    }
    return worst;
}

inline int worst_of(Wide code, int) {
    const int low = worst_of(code.low, LANES), high = worst_of(code.high, LANES);
    return low < 0 || high < 0 ? -1 : (low > high ? low : high);
}

template <class S> struct Desk {  // the arrays of one solve, carved from one block
    S *gram, *unit, *w, *scale, *d, *unit_d, *lines, *numbers;
    Room<S> room;
    static constexpr long doubles(long n, bool rough = false) {
        return (4 * n + PATH_LINES + LINES + 4) * n + NUMBERS + (rough ? (floats_of(n, true) + 1) / 2 : 0);
    }
    NASH_FN Desk(S* block, int n) {
        gram = block, unit = gram + (long)n * n, room.square = unit + (long)n * n;
        room.lower = room.square + (long)n * n, room.lines = room.lower + (long)n * n;
        lines = room.lines + PATH_LINES * n, w = lines + LINES * n, scale = w + n, d = scale + n, unit_d = d + n;
        numbers = unit_d + n, room.spare = numbers + NUMBERS;
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

template <bool ROUGH, class T> NASH_FN int one(const Batch& p, long item, int live, int n, typename T::S* block) {
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
                       ? solve_from<true, ROUGH>(T(), n, desk.gram, desk.w, desk.d, desk.unit_d, radius, natural, warm,
                                                 how, desk.scale, desk.unit, desk.lines, desk.numbers, iterations,
                                                 desk.room)
                       : solve_from<false, ROUGH>(T(), n, desk.gram, desk.w, none, none, radius, natural, warm, how,
                                                  desk.scale, desk.unit, desk.lines, desk.numbers, iterations,
                                                  desk.room);
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

template <bool ROUGH, class T> NASH_FN int one_iterate(const Batch& p, long item, int live, int n, typename T::S* block) {
    using S = typename T::S;
    Desk<S> desk(block, n);
    S radius, iterations;
    read(p, item, live > 1 ? 1 : 0, n, desk, radius);
    S* a = desk.lines;
    read_start(p, item, live > 1 ? 1 : 0, n, a);
    S stop;
    if constexpr (ROUGH) {
        const Settings how{p.noise, 0, p.max_iter, false};
        typename Kind<S>::mask good = Kind<S>::yes(true);
        const S weight = T().sum(n, [&](int i) { return desk.w[i]; });
        stop = iterate_in_floats<false>(T(), n, desk.gram, desk.w, (S*)nullptr, weight, a, how, good, desk.room,
                                        iterations);
    } else {
        stop = iterate<false>(T(), n, desk.gram, desk.w, (S*)nullptr, a, p.noise, p.max_iter, desk.room, iterations);
    }
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

enum Job { SOLVE, ITERATE, CERTIFY, EXAMINE, INVERT, SOLVE_ROUGHLY, ITERATE_ROUGHLY };
constexpr bool rough(Job job) { return job == SOLVE_ROUGHLY || job == ITERATE_ROUGHLY; }
template <class T, Job JOB> NASH_FN int work(const Batch& p, long item, int live, int n, typename T::S* block) {
    if constexpr (JOB == SOLVE || JOB == SOLVE_ROUGHLY) return one<rough(JOB), T>(p, item, live, n, block);
    if constexpr (JOB == ITERATE || JOB == ITERATE_ROUGHLY) return one_iterate<rough(JOB), T>(p, item, live, n, block);
    if constexpr (JOB == EXAMINE) return one_examine<T>(p, item, live, n, block);
    if constexpr (JOB == INVERT) return one_inverse<T>(p, item, live, n, block);
    return one_certify<T>(p, item, live, n, block);
}

inline int worse(int one, int other) { return one < 0 || other < 0 ? -1 : (one > other ? one : other); }

// Full packs of problems, then one by one, to the same bits.
template <Job JOB, class S, int AT_ONCE> int lanes_of(const Batch& p, long begin, long end) {
    const int n = p.n;
    int worst = 0;
    alignas(64) S packs[Desk<S>::doubles(LARGEST_LANE, rough(JOB))];
    long item = begin;
    for (; item + AT_ONCE <= end; item += AT_ONCE)
        worst = worse(worst, work<Lane<S>, JOB>(p, item, AT_ONCE, n, packs));
    double* block = (double*)packs;
    for (; item < end; ++item) worst = worse(worst, work<Lane<double>, JOB>(p, item, 1, n, block));
    return worst;
}
#if !defined(__x86_64__) || defined(__AVX2__)
constexpr bool PAIRED = true;
#else
constexpr bool PAIRED = false;  // where a pack is several registers, floats in it gain nothing and take long to compile
#endif
template <Job JOB> int lanes(const Batch& p, long begin, long end) {
    if constexpr (rough(JOB) && PAIRED)
        return lanes_of<JOB, Wide, 2 * LANES>(p, begin, end);
    else if constexpr (rough(JOB))
        return lanes_of<JOB, double, 1>(p, begin, end);
    else
        return lanes_of<JOB, Pack, LANES>(p, begin, end);
}

template <class T, Job JOB> int one_by_one(const Batch& p, long begin, long end) {
    double* block = room.of(Desk<double>::doubles(p.n, rough(JOB)));
    if (!block) return -1;
    int worst = 0;
    for (long item = begin; item < end; ++item) worst = worse(worst, work<T, JOB>(p, item, 1, p.n, block));
    room.trim();
    return worst;
}

#if defined(NASH_TILES)
// Whose panel lies where a GPU has shared memory.
struct HostBlock : Blockwide<256> {
    HostBlock() {
        static thread_local double shared_memory[1 << 14];
        panel = shared_memory, held = 1 << 14;
    }
};

// As a GPU picks: the smallest tile that has a thread for every player.
template <Job JOB> int spread(const Batch& p, long begin, long end) {
    if (p.n <= 8) return one_by_one<Tile<8>, JOB>(p, begin, end);
    if (p.n <= 16) return one_by_one<Tile<16>, JOB>(p, begin, end);
    if (p.n <= 32) return one_by_one<Tile<32>, JOB>(p, begin, end);
    return p.n <= 64 ? one_by_one<Tile<64>, JOB>(p, begin, end) : one_by_one<HostBlock, JOB>(p, begin, end);
}
#else
template <Job JOB> int spread(const Batch& p, long begin, long end) {
    return p.n <= LARGEST_LANE ? lanes<JOB>(p, begin, end) : one_by_one<Row, JOB>(p, begin, end);
}
#endif
template <Job JOB> int run(const Batch& p, long begin, long end) {
    if constexpr (JOB == SOLVE)
        if (p.rough) return spread<SOLVE_ROUGHLY>(p, begin, end);
    if constexpr (JOB == ITERATE)
        if (p.rough) return spread<ITERATE_ROUGHLY>(p, begin, end);
    return spread<JOB>(p, begin, end);
}

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
