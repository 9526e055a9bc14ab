// Two packs of doubles side by side: as many problems as a pack of floats holds.
#pragma once
#include "scalar.hpp"

namespace NASH_NAMESPACE {

struct Wide {
    Pack low, high;
};
struct WideMask {
    Mask low, high;
};

#define NASH_ON_BOTH(RESULT, OPERATOR)                                                                                \
    NASH_FN RESULT operator OPERATOR(Wide a, Wide b) { return {a.low OPERATOR b.low, a.high OPERATOR b.high}; }       \
    NASH_FN RESULT operator OPERATOR(Wide a, double b) { return {a.low OPERATOR b, a.high OPERATOR b}; }              \
    NASH_FN RESULT operator OPERATOR(double a, Wide b) { return {a OPERATOR b.low, a OPERATOR b.high}; }
NASH_ON_BOTH(Wide, +)
NASH_ON_BOTH(Wide, -)
NASH_ON_BOTH(Wide, *)
NASH_ON_BOTH(Wide, /)
NASH_ON_BOTH(WideMask, <)
NASH_ON_BOTH(WideMask, >)
NASH_ON_BOTH(WideMask, <=)
NASH_ON_BOTH(WideMask, >=)
NASH_ON_BOTH(WideMask, ==)
#undef NASH_ON_BOTH
NASH_FN Wide operator-(Wide a) { return {-a.low, -a.high}; }
NASH_FN WideMask operator&(WideMask a, WideMask b) { return {a.low & b.low, a.high & b.high}; }
NASH_FN WideMask operator|(WideMask a, WideMask b) { return {a.low | b.low, a.high | b.high}; }
NASH_FN WideMask operator!(WideMask a) { return {!a.low, !a.high}; }

NASH_FN Wide select(WideMask m, Wide a, Wide b) { return {select(m.low, a.low, b.low), select(m.high, a.high, b.high)}; }
NASH_FN bool any(WideMask m) { return any(m.low) || any(m.high); }
NASH_FN Wide root(Wide x) { return {root(x.low), root(x.high)}; }
NASH_FN Wide size_of(Wide x) { return {size_of(x.low), size_of(x.high)}; }
NASH_FN Wide fused(Wide a, Wide b, Wide c) { return {fused(a.low, b.low, c.low), fused(a.high, b.high, c.high)}; }
NASH_FN Wide logarithm(Wide x) { return {logarithm(x.low), logarithm(x.high)}; }
NASH_FN Wide logarithm_of_one_plus(Wide x) { return {logarithm_of_one_plus(x.low), logarithm_of_one_plus(x.high)}; }
NASH_FN Wide power_of_two_below(Wide x) { return {power_of_two_below(x.low), power_of_two_below(x.high)}; }

template <> struct Kind<Wide> {
    using mask = WideMask;
    using real = double;
    static NASH_FN Wide all(double x) { return {Kind<Pack>::all(x), Kind<Pack>::all(x)}; }
    static NASH_FN WideMask yes(bool x) { return {Kind<Pack>::yes(x), Kind<Pack>::yes(x)}; }
};

typedef float Half32 __attribute__((vector_size(4 * LANES)));
template <> struct Narrow<Wide> {
    using type = Pack32;
    static NASH_FN Pack32 of(Wide x) {
        const Half32 parts[2] = {__builtin_convertvector(x.low, Half32), __builtin_convertvector(x.high, Half32)};
        Pack32 y;
        __builtin_memcpy(&y, parts, sizeof y);
        return y;
    }
    static NASH_FN Wide back(Pack32 x) {
        Half32 parts[2];
        __builtin_memcpy(parts, &x, sizeof x);
        return {__builtin_convertvector(parts[0], Pack), __builtin_convertvector(parts[1], Pack)};
    }
};

}  // namespace NASH_NAMESPACE
