// After nash.cu: kernels by name.
extern "C" int drive(const char* name, void** args, const char* kinds, long long blocks, int threads, long shared) {
    if (!std::strcmp(name, "nash_read")) return drive_one(nash_read, args, kinds, blocks, threads, 1, shared);
#define NASH_BY_NAME(W) \
    if (!std::strcmp(name, "nash_solve_" #W)) return drive_one(nash_solve_##W, args, kinds, blocks, threads, W, shared);
#if NASH_WIDTH == 8
    NASH_BY_NAME(8)
#elif NASH_WIDTH == 16
    NASH_BY_NAME(16)
#elif NASH_WIDTH == 32
    NASH_BY_NAME(32)
#elif NASH_WIDTH == 64
    NASH_BY_NAME(64)
#else
    NASH_BY_NAME(256)
#endif
    return 4;
}
