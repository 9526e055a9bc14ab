// The kernel on a GPU: a tile of threads a problem, everything in one launch, results and status on the device.
#include "solve.hpp"
#include "tile.hpp"

using namespace NASH_NAMESPACE;

// Scratch of a tile in shared memory: the unit Gram and the system, then the lines of Room and Line, weights and scale.
__host__ __device__ constexpr int doubles_of(int n) { return 2 * n * n + (8 + LINES + 2) * n + NUMBERS; }

template <int W>
__device__ void solve_one(const double* gram, const double* weights, long long weights_step, const double* radius,
                          long long radius_step, const double* start, double gram_error, double rtol, int max_iter,
                          int definite, long long count, int n, double* lines, double* numbers, long long* status,
                          long long* n_iter) {
    extern __shared__ double memory[];
    const int tiles = blockDim.x / W, own = threadIdx.x / W, rank = threadIdx.x % W;
    const long long item = (long long)blockIdx.x * tiles + own;
    if (item >= count) return;  // a whole tile leaves together
    double* at = memory + (long long)own * (doubles_of(n) + (W > 32 ? W : 0));
    Room<double> room;
    double* unit = at;
    room.square = unit + n * n, room.lines = room.square + n * n;
    double *own_lines = room.lines + 8 * n, *w = own_lines + LINES * n, *scale = w + n, *own_numbers = scale + n;
    Tile<W> team;
    team.shared = own_numbers + NUMBERS;
    team.each(n, [&](int i) {
        w[i] = weights ? weights[item * weights_step + i] : 1.0;
        if (start) own_lines[i] = start[item * n + i];
    });
    const double r = radius ? radius[item * radius_step] : 0.0;
    const Settings how{gram_error, rtol, max_iter, definite != 0};
    double iterations = 0;
    const double code = solve(team, n, const_cast<double*>(gram + item * n * n), w, r, radius == nullptr,
                              start != nullptr, how, scale, unit, own_lines, own_numbers, iterations, room);
    const long long plane = count * n;
    for (int k = 0; k < LINES; ++k)
        team.each(n, [&](int i) { lines[k * plane + item * n + i] = own_lines[k * n + i]; });
    if (rank == 0) {
        for (int k = 0; k < NUMBERS; ++k) numbers[k * count + item] = own_numbers[k];
        status[item] = (long long)code;
        n_iter[item] = (long long)iterations;
    }
}

#define NASH_KERNEL(W, THREADS)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS) nash_solve_##W(                                             \
        const double* gram, const double* weights, long long weights_step, const double* radius,                     \
        long long radius_step, const double* start, double gram_error, double rtol, int max_iter, int definite,      \
        long long count, int n, double* lines, double* numbers, long long* status, long long* n_iter) {              \
        solve_one<W>(gram, weights, weights_step, radius, radius_step, start, gram_error, rtol, max_iter, definite,  \
                     count, n, lines, numbers, status, n_iter);                                                      \
    }

NASH_KERNEL(8, 128)
NASH_KERNEL(16, 128)
NASH_KERNEL(32, 128)
NASH_KERNEL(64, 64)
