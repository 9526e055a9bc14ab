// Scalars of the solve: one double, or a pack of doubles that holds one problem in each lane.
// Every arithmetic step of the headers goes through these functions, so that a pack and a double take the same
// operations in the same order and end in the same bits.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define NASH_FN __host__ __device__ __forceinline__
#define NASH_RARE __host__ __device__ __noinline__  // what few items need, kept out of the registers of all others
#else
#define NASH_FN inline __attribute__((always_inline))
#define NASH_RARE inline
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

NASH_FN Pack select(Mask m, Pack a, Pack b) { return m ? a : b; }
NASH_FN bool any(Mask m) {
    long long all = 0;
    for (int k = 0; k < LANES; ++k) all |= m[k];
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
NASH_FN Pack size_of(Pack x) { return x < 0 ? -x : x; }
NASH_FN Pack fused(Pack a, Pack b, Pack c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    Pack y;
    for (int k = 0; k < LANES; ++k) y[k] = __builtin_fma(a[k], b[k], c[k]);
    return y;
#else
    return a * b + c;
#endif
}
NASH_FN Pack logarithm(Pack x) {
    return lanewise(x, [](double v) { return __builtin_log(v); });
}
NASH_FN Pack logarithm_of_one_plus(Pack x) {
    return lanewise(x, [](double v) { return __builtin_log1p(v); });
}
NASH_FN Pack power_of_two_below(Pack x) {
    return lanewise(x, [](double v) { return power_of_two_below(v); });
}
#endif

// What goes with a scalar type: its mask, and a scalar of one value.
template <class S> struct Kind;
template <> struct Kind<double> {
    using mask = bool;
    static NASH_FN double all(double x) { return x; }
    static NASH_FN bool yes(bool x) { return x; }
};
#if !defined(__CUDACC__)
template <> struct Kind<Pack> {
    using mask = Mask;
    static NASH_FN Pack all(double x) {
        Pack y;
        for (int k = 0; k < LANES; ++k) y[k] = x;
        return y;
    }
    static NASH_FN Mask yes(bool x) { return (Mask){} - (long long)x; }
};
#endif

template <class S> NASH_FN S smaller(S a, S b) { return select(b < a, b, a); }  // a NaN in a stays, one in b is lost
template <class S> NASH_FN S larger(S a, S b) { return select(b > a, b, a); }

}  // namespace NASH_NAMESPACE
