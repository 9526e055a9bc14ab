// Tall, skinny data in one pass: Gram of differences and their combination, over columns [begin, end) of rows that lie
// anywhere. Compiled once for each instruction set, plain C symbols, no dependency but the C library.
//
// Blocks of kBlock columns are brought to float (or double) and the base subtracted, into a scratch that the first level
// cache holds for few rows. Products run over register tiles: a triangle of kRows rows with themselves, then kRows x kWide
// pairs, with sums enough in every tile to hide how long one takes. Every lane of a float accumulator sums kBlock / kLanes
// products and is then added to a double, so that its rounding error cannot grow with the length.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
constexpr int kWide = 4;
#elif defined(__AVX__)
constexpr int kBytes = 32;
constexpr int kWide = 3;
#else
constexpr int kBytes = 16;
constexpr int kWide = 3;
#endif
constexpr int kRows = 4;
constexpr int kMost = 4;  // rows fetched during one tile
constexpr int64_t kBlock = 512;

enum Kind : int { kBfloat16 = 0, kFloat16 = 1, kFloat32 = 2, kFloat64 = 3 };

typedef float Floats __attribute__((vector_size(kBytes)));
typedef double Doubles __attribute__((vector_size(kBytes)));
typedef float HalfFloats __attribute__((vector_size(kBytes / 2)));
typedef uint32_t __attribute__((may_alias)) Word;

template <class T> struct Wide;
template <> struct Wide<float> { typedef Floats type; static constexpr int lanes = kBytes / 4; };
template <> struct Wide<double> { typedef Doubles type; static constexpr int lanes = kBytes / 8; };

float half_to_float(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 31u, fraction = half & 1023u, bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | (fraction << 13);
    } else if (exponent) {
        bits = sign | ((exponent + 112) << 23) | (fraction << 13);
    } else if (fraction) {
        exponent = 113;
        while (!(fraction & 1024u)) { fraction <<= 1; --exponent; }
        bits = sign | (exponent << 23) | ((fraction & 1023u) << 13);
    } else {
        bits = sign;
    }
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

uint16_t float_to_half(float value) {
#if defined(__F16C__)
    return uint16_t(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
#else
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return sign | 0x7e00u;
    if (bits >= 0x47800000u) return sign | 0x7c00u;
    if (bits < 0x38800000u) {  // a subnormal half: let the float unit round it
        float magnitude, magic = 0.5f;
        std::memcpy(&magnitude, &bits, 4);
        magnitude += magic;
        std::memcpy(&bits, &magnitude, 4);
        return sign | uint16_t(bits - 0x3f000000u);
    }
    const uint32_t odd = (bits >> 13) & 1u;
    return sign | uint16_t((bits + 0xc8000fffu + odd) >> 13);
#endif
}

uint16_t float_to_bfloat(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet = (bits >> 16) | 0x40u;
    return uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

// `count` numbers of a row, from column `at` on, as floats.
void load(int kind, const void* row, int64_t at, int64_t count, float* __restrict out) {
    if (kind == kFloat32) {
        std::memcpy(out, static_cast<const float*>(row) + at, size_t(count) * 4);
    } else if (kind == kBfloat16) {
        const uint16_t* __restrict from = static_cast<const uint16_t*>(row) + at;
        Word* __restrict words = reinterpret_cast<Word*>(out);
        for (int64_t k = 0; k < count; ++k) words[k] = uint32_t(from[k]) << 16;
    } else if (kind == kFloat16) {
        const uint16_t* __restrict from = static_cast<const uint16_t*>(row) + at;
        int64_t k = 0;
#if defined(__F16C__)
        for (; k + 8 <= count; k += 8)
            _mm256_storeu_ps(out + k, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + k))));
#endif
        for (; k < count; ++k) out[k] = half_to_float(from[k]);
    } else {
        const double* __restrict from = static_cast<const double*>(row) + at;
        for (int64_t k = 0; k < count; ++k) out[k] = float(from[k]);
    }
}

void load(int kind, const void* row, int64_t at, int64_t count, double* __restrict out) {
    if (kind == kFloat64) {
        std::memcpy(out, static_cast<const double*>(row) + at, size_t(count) * 8);
        return;
    }
    float narrow[kBlock];
    load(kind, row, at, count, narrow);
    for (int64_t k = 0; k < count; ++k) out[k] = double(narrow[k]);
}

// A whole block of bfloat16 as floats, minus `below`, which may be null: of every two numbers in a word the lower one is
// shifted up and the upper one masked, so that nothing is shuffled. Words of a register's size become two registers, lower
// ones first: an order of columns of its own, which sums over columns do not notice where every row has it.
void load_pairs(const void* row, int64_t at, const float* __restrict below, float* __restrict out) {
    typedef uint32_t Words __attribute__((vector_size(kBytes)));
    constexpr int lanes = kBytes / 4;
    const uint16_t* from = static_cast<const uint16_t*>(row) + at;
    for (int64_t k = 0; k < kBlock; k += 2 * lanes) {
        Words both;
        std::memcpy(&both, from + k, kBytes);
        Floats low = (Floats)(both << 16), high = (Floats)(both & 0xffff0000u);
        if (below) {
            low -= *reinterpret_cast<const Floats*>(below + k);
            high -= *reinterpret_cast<const Floats*>(below + k + lanes);
        }
        *reinterpret_cast<Floats*>(out + k) = low;
        *reinterpret_cast<Floats*>(out + k + lanes) = high;
    }
}

// The same as `load` minus `below`, which may be null.
template <class T>
void load_minus(int kind, const void* row, int64_t at, int64_t count, const T* __restrict below, T* __restrict out) {
    if (below && kind == kFloat32) {
        const float* __restrict from = static_cast<const float*>(row) + at;
        for (int64_t k = 0; k < count; ++k) out[k] = T(from[k]) - below[k];
    } else if (below && kind == kBfloat16) {
        const uint16_t* __restrict from = static_cast<const uint16_t*>(row) + at;
        for (int64_t k = 0; k < count; ++k) {
            const uint32_t bits = uint32_t(from[k]) << 16;
            float value;
            std::memcpy(&value, &bits, 4);
            out[k] = T(value) - below[k];
        }
#if defined(__F16C__)
    } else if (below && kind == kFloat16 && sizeof(T) == 4 && count % 8 == 0) {
        const uint16_t* __restrict from = static_cast<const uint16_t*>(row) + at;
        for (int64_t k = 0; k < count; k += 8) {
            const __m256 eight = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + k)));
            _mm256_storeu_ps((float*)out + k, _mm256_sub_ps(eight, _mm256_loadu_ps((const float*)below + k)));
        }
#endif
    } else {
        load(kind, row, at, count, out);
        if (below)
            for (int64_t k = 0; k < count; ++k) out[k] -= below[k];
    }
}

// sum += c (row - below), without a copy of the row where its numbers need no table to be read.
template <class T>
void add_scaled(int kind, const void* row, int64_t at, int64_t count, T c, const T* __restrict below,
                T* __restrict sum, T* __restrict scratch) {
    if (kind == kFloat32) {
        const float* __restrict from = static_cast<const float*>(row) + at;
        for (int64_t k = 0; k < count; ++k) sum[k] += c * (T(from[k]) - below[k]);
    } else if (kind == kBfloat16) {
        const uint16_t* __restrict from = static_cast<const uint16_t*>(row) + at;
        for (int64_t k = 0; k < count; ++k) {
            const uint32_t bits = uint32_t(from[k]) << 16;
            float value;
            std::memcpy(&value, &bits, 4);
            sum[k] += c * (T(value) - below[k]);
        }
    } else {
        load(kind, row, at, count, scratch);
        for (int64_t k = 0; k < count; ++k) sum[k] += c * (scratch[k] - below[k]);
    }
}

// sum = sum_i c_i (row_i - below) over S vectors of floats, which stay in registers while the rows pass.
template <int S>
void add_strip(const void* const* rows, int64_t n, const double* c, int64_t at, const float* below, float* sum) {
    constexpr int lanes = Wide<float>::lanes;
    Floats b[S], total[S] = {};
    for (int x = 0; x < S; ++x) std::memcpy(&b[x], below + x * lanes, sizeof(Floats));
    for (int64_t i = 0; i < n; ++i) {
        const float* from = static_cast<const float*>(rows[i]) + at;
        const float weight = float(c[i]);
        for (int x = 0; x < S; ++x) {
            Floats row;
            std::memcpy(&row, from + x * lanes, sizeof(Floats));
            total[x] += weight * (row - b[x]);
        }
    }
    for (int x = 0; x < S; ++x) std::memcpy(sum + x * lanes, &total[x], sizeof(Floats));
}

// Rows whose streams the processor fetches ahead by itself, strip by strip.
constexpr int64_t kStreams = 16;

bool few_floats(int64_t n, const int* kinds) {
    bool all = n <= kStreams;
    for (int64_t i = 0; all && i < n; ++i) all = kinds[i] == kFloat32;
    return all;
}

// The same over a block, for few rows that are all floats.
void add_floats(const void* const* rows, int64_t n, const double* c, int64_t at, int64_t count, const float* below,
                float* sum) {
    constexpr int64_t strip = 4 * Wide<float>::lanes;
    int64_t k = 0;
    for (; k + strip <= count; k += strip) add_strip<4>(rows, n, c, at + k, below + k, sum + k);
    for (; k < count; ++k) {
        sum[k] = 0;
        for (int64_t i = 0; i < n; ++i)
            sum[k] += float(c[i]) * (static_cast<const float*>(rows[i])[at + k] - below[k]);
    }
}

int size_of(int kind) { return kind == kFloat64 ? 8 : kind == kFloat32 ? 4 : 2; }

// Brings a whole block of a row into the cache.
void fetch(const void* row, int kind, int64_t at) {
    const char* from = static_cast<const char*>(row) + at * size_of(kind);
    for (int64_t k = 0; k < kBlock * size_of(kind); k += 64) __builtin_prefetch(from + k, 0, 3);
}

// What the next block needs, fetched while the products of this one run: some rows during every tile.
struct Ahead {
    const void* const* rows;
    const int* kinds;
    int64_t n, at, next, share;  // a row after the last is the base
    const void* base;
    int base_kind;

    // Rows for the tile that comes.
    struct Share {
        const char* from[kMost];
        int steps[kMost];
        int count = 0;
        void fetch(int64_t k) const {  // every line once, at its first column: in bursts they would be dropped
            for (int x = 0; x < count; ++x)
                if (!(k * steps[x] & 63)) __builtin_prefetch(from[x] + k * steps[x], 0, 3);
        }
    };
    Share take() {
        Share found;
        for (; next < n + (base != nullptr) && found.count < share; ++next) {
            const int kind = next < n ? kinds[next] : base_kind;
            const void* row = next < n ? rows[next] : base;
            found.steps[found.count] = size_of(kind);
            found.from[found.count++] = static_cast<const char*>(row) + at * size_of(kind);
        }
        return found;
    }
};

template <class T>
void store(int kind, void* row, int64_t at, int64_t count, const T* __restrict from) {
    if (kind == kFloat64) {
        double* __restrict out = static_cast<double*>(row) + at;
        for (int64_t k = 0; k < count; ++k) out[k] = double(from[k]);
    } else if (kind == kFloat32) {
        float* __restrict out = static_cast<float*>(row) + at;
        for (int64_t k = 0; k < count; ++k) out[k] = float(from[k]);
    } else {
        uint16_t* __restrict out = static_cast<uint16_t*>(row) + at;
        if (kind == kBfloat16)
            for (int64_t k = 0; k < count; ++k) out[k] = float_to_bfloat(float(from[k]));
        else
            for (int64_t k = 0; k < count; ++k) out[k] = float_to_half(float(from[k]));
    }
}

// Adds a lane-wise sum to the doubles kept for one pair.
void add_lanes(const Floats& sum, double* into) {
    HalfFloats parts[2];
    std::memcpy(parts, &sum, sizeof(sum));
    Doubles* total = reinterpret_cast<Doubles*>(into);
    *total += __builtin_convertvector(parts[0], Doubles) + __builtin_convertvector(parts[1], Doubles);
}

void add_lanes(const Doubles& sum, double* into) { *reinterpret_cast<Doubles*>(into) += sum; }

// Products of rows i.. with rows j.. of the scratch over one block; of rows with themselves, one half.
template <class T, int R, int C, bool DIAGONAL>
void tile(const T* __restrict scratch, int64_t i, int64_t j, int64_t columns, int64_t n, double* totals,
          Ahead& ahead) {
    typedef typename Wide<T>::type V;
    constexpr int lanes = Wide<T>::lanes;
    constexpr int kept = kBytes / 8;
    V sums[R][C] = {};
    const Ahead::Share fetching = ahead.take();
    const T* left = scratch + i * kBlock;
    const T* right = scratch + j * kBlock;
    for (int64_t k = 0; k < columns; k += lanes) {
        fetching.fetch(k);
        V b[C];
        for (int y = 0; y < C; ++y) b[y] = *reinterpret_cast<const V*>(right + y * kBlock + k);
        for (int x = 0; x < R; ++x) {
            const V a = DIAGONAL ? b[x] : *reinterpret_cast<const V*>(left + x * kBlock + k);
            for (int y = DIAGONAL ? x : 0; y < C; ++y) sums[x][y] += a * b[y];
        }
    }
    for (int x = 0; x < R; ++x)
        for (int y = DIAGONAL ? x : 0; y < C; ++y) add_lanes(sums[x][y], totals + ((i + x) * n + j + y) * kept);
}

// Rows i .. i + R with themselves and with all that follow: no tile of one column is left over where it can be avoided.
template <class T, int R>
void tiles(const T* s, int64_t i, int64_t columns, int64_t n, double* totals, Ahead& ahead) {
    tile<T, R, R, true>(s, i, i, columns, n, totals, ahead);
    for (int64_t j = i + R; j < n;) {
        const int64_t c = n - j;
        if (c >= kWide && c != kWide + 1) {
            tile<T, R, kWide, false>(s, i, j, columns, n, totals, ahead), j += kWide;
        } else if (c >= 3 && c != 4) {
            tile<T, R, 3, false>(s, i, j, columns, n, totals, ahead), j += 3;
        } else if (c >= 2) {
            tile<T, R, 2, false>(s, i, j, columns, n, totals, ahead), j += 2;
        } else {
            tile<T, R, 1, false>(s, i, j, columns, n, totals, ahead), j += 1;
        }
    }
}

template <class T>
int gram(const void* const* rows, int64_t n, const int* kinds, const void* base, int base_kind, int64_t begin,
         int64_t end, double* out) {
    constexpr int lanes = Wide<T>::lanes;
    constexpr int kept = kBytes / 8;
    const size_t size = size_t(n + 1) * kBlock * sizeof(T), kept_size = size_t(n) * size_t(n) * kept * sizeof(double);
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, size + kept_size)) return 1;
    double* totals = static_cast<double*>(memory);
    T* scratch = reinterpret_cast<T*>(static_cast<char*>(memory) + kept_size);
    T* below = scratch + n * kBlock;
    std::memset(totals, 0, kept_size);
    bool pairs = sizeof(T) == 4 && (!base || base_kind == kBfloat16);
    for (int64_t i = 0; i < n; ++i) pairs = pairs && kinds[i] == kBfloat16;
    const int64_t groups = (n + kRows - 1) / kRows, least = groups * (groups + 1) / 2;  // tiles of a block, or fewer
    const int64_t share = (n + least) / least < kMost ? (n + least) / least : kMost;
    for (int64_t at = begin; at < end; at += kBlock) {
        const int64_t count = end - at < kBlock ? end - at : kBlock;
        const int64_t columns = (count + lanes - 1) / lanes * lanes;
        const bool paired = pairs && count == kBlock;
        if (base && !paired) load(base_kind, base, at, count, below);
        if (paired) {
            if (base) load_pairs(base, at, nullptr, (float*)below);
            const float* under = base ? (float*)below : nullptr;
            for (int64_t i = 0; i < n; ++i) load_pairs(rows[i], at, under, (float*)scratch + i * kBlock);
        }
        for (int64_t i = 0; i < n && !paired; ++i) {
            T* __restrict row = scratch + i * kBlock;
            load_minus(kinds[i], rows[i], at, count, base ? below : nullptr, row);
            for (int64_t k = count; k < columns; ++k) row[k] = 0;
        }
        const bool more = at + 2 * kBlock <= end;
        Ahead ahead{rows, kinds, more ? n : 0, at + kBlock, 0, share, more ? base : nullptr, base_kind};
        for (int64_t i = 0; i < n; i += kRows) {
            if (n - i >= 4) tiles<T, 4>(scratch, i, columns, n, totals, ahead);
            else if (n - i == 3) tiles<T, 3>(scratch, i, columns, n, totals, ahead);
            else if (n - i == 2) tiles<T, 2>(scratch, i, columns, n, totals, ahead);
            else tiles<T, 1>(scratch, i, columns, n, totals, ahead);
        }
    }
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = i; j < n; ++j) {
            double sum = 0;
            for (int k = 0; k < kept; ++k) sum += totals[(i * n + j) * kept + k];
            out[i * n + j] = out[j * n + i] = sum;
        }
    std::free(memory);
    return 0;
}

// numbers: c_1 .. c_n, Re gamma, Im gamma, r, u. `rest` holds old p, q and new p, q; null where there is none.
template <class T>
void combine(const void* const* rows, int64_t n, const int* kinds, const void* base, int base_kind,
             const double* numbers, void* out, int out_kind, void* const* rest, int buffers, int64_t begin,
             int64_t end) {
    const T re = T(numbers[n]), im = T(numbers[n + 1]), r = T(numbers[n + 2]), u = T(numbers[n + 3]);
    const bool few = std::is_same_v<T, float> && few_floats(n, kinds);
    alignas(64) T below[kBlock], delta[kBlock], row[kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
        const int64_t count = end - at < kBlock ? end - at : kBlock;
        if (base && at + 2 * kBlock <= end) fetch(base, base_kind, at + kBlock);
        if (base) load(base_kind, base, at, count, below);
        else std::memset(below, 0, sizeof(below));
        if constexpr (std::is_same_v<T, float>)
            if (few) add_floats(rows, n, numbers, at, count, below, delta);
        if (!few) {
            std::memset(delta, 0, sizeof(delta));
            for (int64_t i = 0; i < n; ++i) {
                if (at + 2 * kBlock <= end) fetch(rows[i], kinds[i], at + kBlock);
                add_scaled(kinds[i], rows[i], at, count, T(numbers[i]), below, delta, row);
            }
        }
        if (buffers == 1) {
            const T* p = static_cast<const T*>(rest[0]);
            T* fresh = static_cast<T*>(rest[2]) + at;
            if (p)
                for (int64_t k = 0; k < count; ++k) delta[k] += r * p[at + k];
            for (int64_t k = 0; k < count; ++k) fresh[k] = delta[k];
        } else if (buffers == 2) {
            const T* p = static_cast<const T*>(rest[0]);
            const T* q = static_cast<const T*>(rest[1]);
            T* fresh_p = static_cast<T*>(rest[2]) + at;
            T* fresh_q = static_cast<T*>(rest[3]) + at;
            for (int64_t k = 0; k < count; ++k) {
                const T x = p ? p[at + k] : T(0), y = q ? q[at + k] : T(0);
                const T turned = u * x + r * y;
                delta[k] += r * x - u * y;
                fresh_p[k] = delta[k];
                fresh_q[k] = turned;
                row[k] = turned;
            }
        }
        if (buffers == 2)
            for (int64_t k = 0; k < count; ++k) delta[k] = below[k] + (re * delta[k] - im * row[k]);
        else
            for (int64_t k = 0; k < count; ++k) delta[k] = below[k] + re * delta[k];
        store(out_kind, out, at, count, delta);
    }
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int nash_lanes() { return Wide<float>::lanes; }

int nash_block() { return int(kBlock); }

// The Gram (n, n) of columns [begin, end), products in float, or in double where `wide`. Non-zero: out of memory.
int nash_gram(const void* const* rows, int64_t n, const int* kinds, const void* base, int base_kind, int wide,
              int64_t begin, int64_t end, double* out) {
    return wide ? gram<double>(rows, n, kinds, base, base_kind, begin, end, out)
                : gram<float>(rows, n, kinds, base, base_kind, begin, end, out);
}

void nash_combine(const void* const* rows, int64_t n, const int* kinds, const void* base, int base_kind,
                  const double* numbers, void* out, int out_kind, void* const* rest, int buffers, int wide,
                  int64_t begin, int64_t end) {
    if (wide) combine<double>(rows, n, kinds, base, base_kind, numbers, out, out_kind, rest, buffers, begin, end);
    else combine<float>(rows, n, kinds, base, base_kind, numbers, out, out_kind, rest, buffers, begin, end);
}
}
#pragma GCC visibility pop
