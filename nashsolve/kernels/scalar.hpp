// Scalars of the solve: a double or a float, or a pack of them that holds one problem in each lane.
// Every arithmetic step of the headers goes through these functions, so that a pack and its scalar take the same
// operations in the same order and end in the same bits.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define NASH_FN __host__ __device__ __forceinline__
#define NASH_RARE __host__ __device__ __noinline__  // what few items need, kept out of the registers of all others
#define NASH_LARGE NASH_FN
#else
#define NASH_FN inline __attribute__((always_inline))
#define NASH_RARE inline
#define NASH_LARGE inline  // what several jobs share: one copy of it compiles faster, and a call costs it nothing
#endif

namespace NASH_NAMESPACE {

constexpr double EPS = 2.220446049250313e-16;
constexpr double UNIT = EPS / 2;

NASH_FN double select(bool m, double a, double b) { return m ? a : b; }
NASH_FN bool any(bool m) { return m; }
NASH_FN double root(double x) {
#if defined(__CUDA_ARCH__)
    return sqrt(x);
#else
    return __builtin_sqrt(x);
#endif
}
NASH_FN double size_of(double x) { return x < 0 ? -x : x; }

NASH_FN float select(bool m, float a, float b) { return m ? a : b; }
NASH_FN float root(float x) {
#if defined(__CUDA_ARCH__)
    return sqrtf(x);
#else
    return __builtin_sqrtf(x);
#endif
}
NASH_FN float size_of(float x) { return x < 0 ? -x : x; }
NASH_FN float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
    return fmaf(a, b, c);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}
NASH_FN float logarithm(float x) {
#if defined(__CUDA_ARCH__)
    return logf(x);
#else
    return __builtin_logf(x);
#endif
}

NASH_FN double fused(double a, double b, double c) {  // a * b + c, rounded once where the processor can
#if defined(__CUDA_ARCH__)
    return fma(a, b, c);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

NASH_FN double not_a_number() {
#if defined(__CUDA_ARCH__)
    return __longlong_as_double(0x7FF8000000000000LL);
#else
    return __builtin_nan("");
#endif
}

NASH_FN double infinity() {
#if defined(__CUDA_ARCH__)
    return __longlong_as_double(0x7FF0000000000000LL);
#else
    return __builtin_inf();
#endif
}

NASH_FN double logarithm(double x) {
#if defined(__CUDA_ARCH__)
    return log(x);
#else
    return __builtin_log(x);
#endif
}
NASH_FN double logarithm_of_one_plus(double x) {
#if defined(__CUDA_ARCH__)
    return log1p(x);
#else
    return __builtin_log1p(x);
#endif
}

// 2^floor(log2 x) of a positive normal x, by clearing its mantissa.
NASH_FN double power_of_two_below(double x) {
    long long bits;
#if defined(__CUDA_ARCH__)
    bits = __double_as_longlong(x);
    return __longlong_as_double(bits & 0x7FF0000000000000LL);
#else
    __builtin_memcpy(&bits, &x, 8);
    bits &= 0x7FF0000000000000LL;
    __builtin_memcpy(&x, &bits, 8);
    return x;
#endif
}

#if !defined(__CUDACC__)
#if defined(__AVX512F__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef double Pack __attribute__((vector_size(8 * LANES)));
typedef long long Mask __attribute__((vector_size(8 * LANES)));
typedef float Pack32 __attribute__((vector_size(8 * LANES)));  // in a register of the same size, twice as many
typedef int Mask32 __attribute__((vector_size(8 * LANES)));

NASH_FN Pack select(Mask m, Pack a, Pack b) { return m ? a : b; }
NASH_FN Pack32 select(Mask32 m, Pack32 a, Pack32 b) { return m ? a : b; }
template <class M> NASH_FN bool any(M m) {  // of either size of lane
    Mask bits;
    static_assert(sizeof bits == sizeof m, "a mask fills a register");
    __builtin_memcpy(&bits, &m, sizeof bits);
    long long all = 0;
    for (int k = 0; k < LANES; ++k) all |= bits[k];
    return all != 0;
}
template <class F> NASH_FN Pack lanewise(Pack x, F f) {
    Pack y;
    for (int k = 0; k < LANES; ++k) y[k] = f(x[k]);
    return y;
}
NASH_FN Pack root(Pack x) {
    return lanewise(x, [](double v) { return __builtin_sqrt(v); });
}
NASH_FN Pack32 root(Pack32 x) {
    Pack32 y;
    for (int k = 0; k < 2 * LANES; ++k) y[k] = __builtin_sqrtf(x[k]);
    return y;
}
NASH_FN Pack size_of(Pack x) { return x < 0 ? -x : x; }
NASH_FN Pack32 size_of(Pack32 x) { return x < 0 ? -x : x; }
NASH_FN Pack fused(Pack a, Pack b, Pack c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    Pack y;
    for (int k = 0; k < LANES; ++k) y[k] = __builtin_fma(a[k], b[k], c[k]);
    return y;
#else
    return a * b + c;
#endif
}
NASH_FN Pack32 fused(Pack32 a, Pack32 b, Pack32 c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    Pack32 y;
    for (int k = 0; k < 2 * LANES; ++k) y[k] = __builtin_fmaf(a[k], b[k], c[k]);
    return y;
#else
    return a * b + c;
#endif
}
NASH_FN Pack logarithm(Pack x) {
    return lanewise(x, [](double v) { return __builtin_log(v); });
}
NASH_FN Pack32 logarithm(Pack32 x) {
    Pack32 y;
    for (int k = 0; k < 2 * LANES; ++k) y[k] = __builtin_logf(x[k]);
    return y;
}
NASH_FN Pack logarithm_of_one_plus(Pack x) {
    return lanewise(x, [](double v) { return __builtin_log1p(v); });
}
NASH_FN Pack power_of_two_below(Pack x) {
    return lanewise(x, [](double v) { return power_of_two_below(v); });
}
#endif

// What a real type resolves, and where the iterations in it stop: relative errors that their last steps leave.
template <class R> struct Grain;
template <> struct Grain<double> {
    static constexpr double EPS = 2.220446049250313e-16, VAST = 1e300;
    static constexpr double TINY = 3e-8, STALL = 1e-4;                    // of Newton: its steps square their error
    static constexpr double GOAL = 3e-12, STILL = 1e-13;                  // of the sweeps
    static constexpr double EXACT = 1e-13, CLEAR = 1e-6, FLOOR = 1e-9;    // of the path
    static constexpr double RIDGE = 1e-14, OPPOSED = 1e-9, FAR = 1e14, FLAT = 1e-8, NOTHING = 1e-7;
};
template <> struct Grain<float> {
    static constexpr float EPS = 1.1920929e-7f, VAST = 1e36f;
    static constexpr float TINY = 3e-4f, STALL = 0.1f;
    static constexpr float GOAL = 3e-7f, STILL = 3e-7f;
    static constexpr float EXACT = 2e-6f, CLEAR = 1e-3f, FLOOR = 1e-4f;
    static constexpr float RIDGE = 1e-6f, OPPOSED = 1e-5f, FAR = 1e6f, FLAT = 1e-5f, NOTHING = 1e-4f;
};

// What goes with a scalar type: its mask, its real numbers, and a scalar of one value.
template <class S> struct Kind;
template <> struct Kind<double> {
    using mask = bool;
    using real = double;
    static NASH_FN double all(double x) { return x; }
    static NASH_FN bool yes(bool x) { return x; }
};
template <> struct Kind<float> {
    using mask = bool;
    using real = float;
    static NASH_FN float all(float x) { return x; }
    static NASH_FN bool yes(bool x) { return x; }
};
#if !defined(__CUDACC__)
template <> struct Kind<Pack> {
    using mask = Mask;
    using real = double;
    static NASH_FN Pack all(double x) {
        Pack y = {};
        for (int k = 0; k < LANES; ++k) y[k] = x;
        return y;
    }
    static NASH_FN Mask yes(bool x) { return (Mask){} - (long long)x; }
};
template <> struct Kind<Pack32> {
    using mask = Mask32;
    using real = float;
    static NASH_FN Pack32 all(float x) {
        Pack32 y = {};
        for (int k = 0; k < 2 * LANES; ++k) y[k] = x;
        return y;
    }
    static NASH_FN Mask32 yes(bool x) { return (Mask32){} - (int)x; }
};
#endif

// The scalar of floats beside one of doubles, for as many problems.
template <class S> struct Narrow;
template <> struct Narrow<double> {
    using type = float;
    static NASH_FN float of(double x) { return (float)x; }
    static NASH_FN double back(float x) { return x; }
};

template <class S> NASH_FN S smaller(S a, S b) { return select(b < a, b, a); }  // a NaN in a stays, one in b is lost
template <class S> NASH_FN S larger(S a, S b) { return select(b > a, b, a); }

}  // namespace NASH_NAMESPACE
