// The kernels on a GPU. `nash_read` takes the mean of a Gram's halves; `nash_solve_W` puts a tile of W threads on each
// problem: everything else in one launch, results and status on the device, no atomic operation.
#include "solve.hpp"
#include "tile.hpp"
#include "verdict.hpp"

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

// Scratch of a tile in shared memory: the unit Gram and the system, then the lines of Room and Line, weights, scale,
// players of length zero; the numbers; a block's sums.
__host__ __device__ constexpr int doubles_of(int n, int width) {
    return 2 * n * n + (8 + LINES + 3) * n + NUMBERS + (width > 32 ? width : 0);
}

template <int W>
__device__ __forceinline__ void solve_one(double* gram, const double* weights, long long weights_step, const double* radius,
                          long long radius_step, const double* start, double gram_error, double rtol, int max_iter,
                          int last_word, long long count, int n, double* lines, double* numbers, long long* status,
                          long long* n_iter) {
    extern __shared__ double memory[];
    const int tiles = blockDim.x / W, own = threadIdx.x / W, rank = threadIdx.x % W;
    const long long item = (long long)blockIdx.x * tiles + own;
    if (item >= count) return;  // a whole tile leaves together
    double* unit = memory + (long long)own * doubles_of(n, W);
    Room<double> room{};
    room.square = unit + n * n, room.lines = room.square + n * n;
    double *own_lines = room.lines + 8 * n, *w = own_lines + LINES * n, *scale = w + n, *silent = scale + n;
    double* own_numbers = silent + n;
    Tile<W> team;
#if defined(__CUDACC__)
    team.shared = own_numbers + NUMBERS;
#endif
    team.each(n, [&](int i) {
        w[i] = weights ? weights[item * weights_step + i] : 1.0;
        if (start) own_lines[i] = start[item * n + i];
    });
    const double r = radius ? radius[item * radius_step] : 0.0;
    const Settings how{gram_error, rtol, max_iter, last_word != 0, 2};
    double iterations = 0;
    const double code = settle(team, n, gram + item * n * n, w, r, radius == nullptr, start != nullptr, how,
                               last_word != 0, scale, unit, own_lines, own_numbers, silent, iterations, room);
    const long long plane = count * n;
    for (int k = 0; k < LINES; ++k)
        team.each(n, [&](int i) { lines[k * plane + item * n + i] = own_lines[k * n + i]; });
    if (rank == 0) {
        for (int k = 0; k < NUMBERS; ++k) numbers[k * count + item] = own_numbers[k];
        status[item] = (long long)code;
        n_iter[item] = (long long)iterations;
    }
}

// 256 threads a processor leave each the registers that it needs; without a word the compiler would spill.
#define NASH_KERNEL(W, THREADS)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, 256 / THREADS) nash_solve_##W(                                             \
        double* gram, const double* weights, long long weights_step, const double* radius, long long radius_step,     \
        const double* start, double gram_error, double rtol, int max_iter, int last_word, long long count, int n,     \
        double* lines, double* numbers, long long* status, long long* n_iter) {                                      \
        solve_one<W>(gram, weights, weights_step, radius, radius_step, start, gram_error, rtol, max_iter, last_word,  \
                     count, n, lines, numbers, status, n_iter);                                                      \
    }

// One width at a time compiles in a quarter of the time: what a process that meets one size should wait for.
#if !defined(NASH_WIDTH) || NASH_WIDTH == 8
NASH_KERNEL(8, 128)
#endif
#if !defined(NASH_WIDTH) || NASH_WIDTH == 16
NASH_KERNEL(16, 128)
#endif
#if !defined(NASH_WIDTH) || NASH_WIDTH == 32
NASH_KERNEL(32, 128)
#endif
#if !defined(NASH_WIDTH) || NASH_WIDTH == 64
NASH_KERNEL(64, 64)
#endif
