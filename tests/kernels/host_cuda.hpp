// Enough of CUDA to run nash.cu on the host: a tile is one call, since compiled for the host each of its phases takes
// all players in turn. Launches come through `drive`, as through cuLaunchKernel: a name, pointers to the arguments, and a
// grid. It checks what a GPU would not: the kinds of the arguments and the use of shared memory.
#include <cstring>
#include <tuple>
#include <utility>
#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)
struct Index {
    unsigned x;
};
static Index threadIdx, blockIdx, blockDim, gridDim;
constexpr long ROOM = 32768;
double memory[ROOM];

template <class A> constexpr char KIND = '?';
template <> constexpr char KIND<int> = 'i';
template <> constexpr char KIND<long long> = 'q';
template <> constexpr char KIND<double> = 'd';
template <class A> constexpr char KIND<A*> = 'p';

template <class... A, std::size_t... I>
int launch(void (*kernel)(A...), void** args, const char* kinds, long long blocks, int threads, int step, long shared,
           std::index_sequence<I...>) {
    const char wanted[] = {KIND<A>..., 0};
    if (std::strcmp(wanted, kinds) != 0) return 1;
    if (shared % 8 || shared / 8 > ROOM) return 2;
    for (long k = 0; k < ROOM; ++k) memory[k] = -12345.5;
    blockDim.x = threads, gridDim.x = (unsigned)blocks;
    for (long long block = 0; block < blocks; ++block)
        for (int thread = 0; thread < threads; thread += step) {
            blockIdx.x = (unsigned)block, threadIdx.x = thread;
            kernel(*(A*)args[I]...);
        }
    for (long k = shared / 8; k < ROOM; ++k)
        if (memory[k] != -12345.5) return 3;
    return 0;
}

template <class... A>
int drive_one(void (*kernel)(A...), void** args, const char* kinds, long long blocks, int threads, int step,
              long shared) {
    return launch(kernel, args, kinds, blocks, threads, step, shared, std::index_sequence_for<A...>());
}
