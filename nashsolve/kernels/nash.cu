// The kernels on a GPU. `nash_read` takes the mean of a Gram's halves; `nash_solve_W` puts W threads on each problem:
// everything else in one launch, results and status on the device, no atomic operation. NASH_PLACED compiles it for a
// disagreement point, NASH_ROUGH for an iteration in floats, NASH_WIDTH for one width alone.
#include "block.hpp"
#include "solve.hpp"
#include "verdict.hpp"

#if !defined(NASH_PLACED)
#define NASH_PLACED 0
#endif
#if !defined(NASH_ROUGH)
#define NASH_ROUGH 0
#endif

using namespace NASH_NAMESPACE;

// One thread an entry. Halves that differ by more than `limit` on the scale of their players, and a player of length
// zero with products that are not, become NaN, which `nash_solve_W` reports as INVALID_INPUT.
extern "C" __global__ void nash_read(const double* given, double* gram, double limit, long long count, int n) {
    const long long entry = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (entry >= count * n * n) return;
    const long long item = entry / (n * n);
    const int i = (int)(entry % (n * n)) / n, j = (int)(entry % n);
    const double* own = given + item * n * n;
    const double value = own[i * n + j], other = own[j * n + i];
    double mean = 0.5 * value + 0.5 * other;
    if (i == j) {
        mean = value;
    } else {
        const double left = own[i * n + i], right = own[j * n + j];
        const double one = left > 0 ? 1.0 / power_of_two_below(root(left)) : 1.0;
        const double two = right > 0 ? 1.0 / power_of_two_below(root(right)) : 1.0;
        if (!((size_of(value - other) * one) * two <= limit)) mean = not_a_number();
        if (left == 0 || right == 0) mean = (size_of(mean) * one) * two <= limit ? 0 : not_a_number();
    }
    gram[entry] = mean;
}

// Room of one problem: the unit Gram, the system and where PLACED its factor; the lines of Room and Line, weights,
// scale, players of length zero, and where PLACED the disagreement twice; the numbers. An iteration in floats takes the
// room of the system.
__host__ __device__ constexpr long long doubles_of(int n, bool placed) {
    return (placed ? 3LL : 2LL) * n * n + ((placed ? PATH_LINES + 2 : 8) + LINES + 3) * n + NUMBERS;
}

// What every kernel is given: steps are 0 where one value is for all items, pointers null where there is none.
struct Task {
    double* gram;
    const double* weights;
    long long weights_step;
    const double* radius;
    long long radius_step;
    const double* disagreement;
    long long disagreement_step;
    const double* start;
    double gram_error, rtol;
    int max_iter, last_word;
    long long count;
    int n;
    double *lines, *numbers;
    long long *status, *n_iter;
};

template <class T>
__device__ __forceinline__ void solve_one(const T& team, const Task& p, long long item, double* block, int rank) {
    const int n = p.n;
    constexpr bool placed = NASH_PLACED != 0;
    double* unit = block;
    Room<double> room{};
    room.square = unit + (long long)n * n, room.spare = room.square;
    room.lower = room.square + (long long)n * n;
    room.lines = room.lower + (placed ? (long long)n * n : 0);
    double *own_lines = room.lines + (placed ? PATH_LINES : 8) * n, *w = own_lines + LINES * n, *scale = w + n,
           *silent = scale + n, *d = silent + n, *unit_d = d + (placed ? n : 0), *own_numbers = unit_d + (placed ? n : 0);
    team.each(n, [&](int i) {
        w[i] = p.weights ? p.weights[item * p.weights_step + i] : 1.0;
        if (placed) d[i] = p.disagreement[item * p.disagreement_step + i];
        if (p.start) own_lines[i] = p.start[item * n + i];
    });
    const double r = p.radius ? p.radius[item * p.radius_step] : 0.0;
    const Settings how{p.gram_error, p.rtol, p.max_iter, p.last_word != 0, 2};
    double iterations = 0;
    const double code = settle<placed, NASH_ROUGH != 0>(
        team, n, p.gram + item * n * n, w, d, unit_d, r, p.radius == nullptr, p.start != nullptr, how,
        p.last_word != 0, scale, unit, own_lines, own_numbers, silent, iterations, room);
    const long long plane = p.count * n;
    for (int k = 0; k < LINES; ++k)
        team.each(n, [&](int i) { p.lines[k * plane + item * n + i] = own_lines[k * n + i]; });
    if (rank == 0) {
        for (int k = 0; k < NUMBERS; ++k) p.numbers[k * p.count + item] = own_numbers[k];
        p.status[item] = (long long)code;
        p.n_iter[item] = (long long)iterations;
    }
}

// A tile of W threads a problem, with the problem in shared memory; sums of a block need W doubles there, too.
template <int W> __device__ __forceinline__ void solve_tile(const Task& p) {
    extern __shared__ double memory[];
    const int tiles = blockDim.x / W, own = threadIdx.x / W;
    const long long item = (long long)blockIdx.x * tiles + own;
    if (item >= p.count) return;  // a whole tile leaves together
    double* block = memory + own * (doubles_of(p.n, NASH_PLACED) + (W > 32 ? W : 0));
    Tile<W> team;
#if defined(__CUDACC__)
    team.shared = block + doubles_of(p.n, NASH_PLACED);
#endif
    solve_one(team, p, item, block, threadIdx.x % W);
}

// A block of W threads a problem, with the problem in `scratch`, where every block of the grid has its own room, and a
// panel in shared memory; blocks take the items in turn.
template <int W> __device__ __forceinline__ void solve_block(const Task& p, double* scratch, int held) {
    extern __shared__ double memory[];
    Blockwide<W> team;
#if defined(__CUDACC__)
    team.shared = memory;
#endif
    team.panel = memory + W, team.held = held;
    double* block = scratch + blockIdx.x * doubles_of(p.n, NASH_PLACED);
    for (long long item = blockIdx.x; item < p.count; item += gridDim.x) solve_one(team, p, item, block, threadIdx.x);
}

// 256 threads a processor leave each the registers that it needs; without a word the compiler would spill.
#define NASH_KERNEL(W, THREADS, MORE, RUN)                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, 256 / THREADS) nash_solve_##W(                              \
        double* gram, const double* weights, long long weights_step, const double* radius, long long radius_step,     \
        const double* disagreement, long long disagreement_step, const double* start, double gram_error, double rtol, \
        int max_iter, int last_word, long long count, int n, double* lines, double* numbers, long long* status,       \
        long long* n_iter MORE) {                                                                                     \
        const Task task{gram,  weights,    weights_step, radius, radius_step, disagreement, disagreement_step,        \
                        start, gram_error, rtol,         max_iter, last_word, count, n, lines, numbers, status,       \
                        n_iter};                                                                                      \
        RUN;                                                                                                          \
    }
#define NASH_NOTHING
#define NASH_SCRATCH , double *scratch, int held

// One width at a time compiles in a quarter of the time: what a process that meets one size should wait for.
#if !defined(NASH_WIDTH) || NASH_WIDTH == 8
NASH_KERNEL(8, 128, NASH_NOTHING, solve_tile<8>(task))
#endif
#if !defined(NASH_WIDTH) || NASH_WIDTH == 16
NASH_KERNEL(16, 128, NASH_NOTHING, solve_tile<16>(task))
#endif
#if !defined(NASH_WIDTH) || NASH_WIDTH == 32
NASH_KERNEL(32, 128, NASH_NOTHING, solve_tile<32>(task))
#endif
#if !defined(NASH_WIDTH) || NASH_WIDTH == 64
NASH_KERNEL(64, 64, NASH_NOTHING, solve_tile<64>(task))
#endif
#if !defined(NASH_WIDTH) || NASH_WIDTH == 256
NASH_KERNEL(256, 256, NASH_SCRATCH, solve_block<256>(task, scratch, held))
#endif
