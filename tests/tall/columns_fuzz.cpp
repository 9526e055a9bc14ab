// Random shapes, dtypes, bases, buffers and bits through the one-pass kernels, for the sanitizers to watch.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

extern "C" int nash_gram(const void* const*, int64_t, const int*, const void*, int, int, int64_t, int64_t, double*);
extern "C" void nash_combine(const void* const*, int64_t, const int*, const void*, int, const double*, void*, int,
                             void* const*, int, int, int64_t, int64_t);

namespace {

int size_of(int kind) { return kind == 3 ? 8 : kind == 2 ? 4 : 2; }

std::vector<char> bytes(int64_t count) {
    std::vector<char> out(static_cast<size_t>(count));
    for (auto& c : out) c = static_cast<char>(rand());
    return out;
}

}  // namespace

int main() {
    srand(1);
    for (int turn = 0; turn < 400; ++turn) {
        const int n = 1 + rand() % 13, base_kind = rand() % 4, out_kind = rand() % 4, wide = rand() % 2;
        const int64_t d = rand() % 1600, begin = d ? rand() % d : 0;
        std::vector<std::vector<char>> rows;
        std::vector<const void*> places;
        std::vector<int> kinds;
        for (int i = 0; i < n; ++i) {
            kinds.push_back(rand() % 4);
            rows.push_back(bytes(d * size_of(kinds[i])));
        }
        for (const auto& row : rows) places.push_back(row.data());
        const std::vector<char> base = bytes(d * size_of(base_kind));
        const void* below = rand() % 2 ? base.data() : nullptr;
        std::vector<double> gram(n * n), numbers(n + 4, 0.5);
        if (nash_gram(places.data(), n, kinds.data(), below, base_kind, wide, begin, d, gram.data())) return 1;
        std::vector<char> out = bytes(d * size_of(out_kind)), state[4];
        for (auto& s : state) s.resize(static_cast<size_t>(d * (wide ? 8 : 4)));
        const bool old = rand() % 2;
        void* rest[4] = {old ? state[0].data() : nullptr, old ? state[1].data() : nullptr, state[2].data(), state[3].data()};
        nash_combine(places.data(), n, kinds.data(), below, base_kind, numbers.data(), out.data(), out_kind, rest,
                     rand() % 3, wide, begin, d);
    }
    std::puts("clean");
}
