// Products of small matrices in registers, in float32 or, where the processor multiplies pairs of bfloat16
// (AVX512-BF16), from bfloat16 factors to float32 sums.
#pragma once

#include <type_traits>
#include <vector>

#include "vectors.hpp"
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>
#endif

namespace {

// How factors lie in a product's inner loop: STEP of them, neighbours in the dimension that is summed, in one cell.
struct Singles {
    using Number = float;
    static constexpr int STEP = 1;
    static Floats add(Floats total, const float* a, const float* b) { return total + *a * load<Floats>(b); }
};
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
struct Pairs {
    using Number = uint16_t;  // bfloat16
    static constexpr int STEP = 2;
    static Floats add(Floats total, const uint16_t* a, const uint16_t* b) {
        int32_t pair;
        std::memcpy(&pair, a, sizeof pair);
        return (Floats)_mm512_dpbf16_ps((__m512)total, (__m512bh)_mm512_set1_epi32(pair), load<__m512bh>(b));
    }
};
template <class T>
using Factors = std::conditional_t<std::is_same_v<T, uint16_t>, Pairs, Singles>;
#else
template <class T>
using Factors = Singles;
#endif

// out[m][n] = factor * sum over cells k of a[m][k] b[k][n], or added to what is there. Strides: of a, in numbers, from m
// to m + 1 and from k to k + 1; of b and out from row to row, in cells and numbers.
template <class P, int M, int N, bool ADDS>
inline void multiply_tile(const typename P::Number* a, int64_t across, int64_t along, const typename P::Number* b,
                          int64_t b_row, int cells, float factor, float* out, int64_t out_row) {
    Floats total[M][N] = {};
    for (int k = 0; k < cells; k++)
        for (int n = 0; n < N; n++)
            for (int m = 0; m < M; m++)
                total[m][n] = P::add(total[m][n], a + m * across + k * along, b + (k * b_row + n * LANES) * P::STEP);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            float* to = out + m * out_row + n * LANES;
            store(to, ADDS ? load<Floats>(to) + total[m][n] : total[m][n] * factor);
        }
}
template <class P, int M, bool ADDS>
void multiply(const typename P::Number* a, int64_t across, int64_t along, const typename P::Number* b, int width,
              int cells, float factor, float* out) {
    int n = 0;
    for (; n + TILE * LANES <= width; n += TILE * LANES)
        multiply_tile<P, M, TILE, ADDS>(a, across, along, b + n * P::STEP, width, cells, factor, out + n, width);
    for (; n < width; n += LANES)
        multiply_tile<P, M, 1, ADDS>(a, across, along, b + n * P::STEP, width, cells, factor, out + n, width);
}

inline void take(float* to, const float* from, int count) { std::memcpy(to, from, sizeof(float) * count); }
inline void take(uint16_t* to, const uint16_t* from, int count) { std::memcpy(to, from, sizeof(uint16_t) * count); }
inline void take(float* to, const uint16_t* from, int count) {
    for (int i = 0; i < count; i++) to[i] = read(from + i);
}

// The cells of STEP rows, neighbours in the dimension that is summed; where there is no second row it is zero.
template <class T>
inline void weave(const T* row, const T*, int width, float* cells) {
    take(cells, row, width);
}
inline void weave(const uint16_t* row, const uint16_t* next, int width, uint16_t* cells) {
    for (int i = 0; i < width; i++) {
        uint32_t pair = next ? row[i] | uint32_t(next[i]) << 16 : row[i];
        std::memcpy(cells + 2 * i, &pair, sizeof pair);
    }
}

// `rows` rows of `width` weights as a product's first matrix that sums over columns, and as one that sums over rows:
// for float32 they are that already.
inline const float* rounded_rows(const float* weights, int, int, std::vector<float>&) { return weights; }
inline const float* rounded_columns(const float* weights, int, int, std::vector<float>&) { return weights; }
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
inline const uint16_t* rounded_rows(const float* weights, int rows, int width, std::vector<uint16_t>& room) {
    const int64_t count = int64_t(rows) * width;  // a multiple of PADDING
    room.resize(count);
    for (int64_t i = 0; i < count; i += LANES)
        store(room.data() + i, _mm512_cvtneps_pbh((__m512)load<Floats>(weights + i)));
    return room.data();
}
inline const uint16_t* rounded_columns(const float* weights, int rows, int width, std::vector<uint16_t>& room) {
    room.resize(int64_t(rows) * width);
    const __m512i order = (__m512i)(lane_numbers() * 0x10001 + (LANES << 16));  // of two rows in turn
    for (int r = 0; r < rows; r += 2)
        for (int c = 0; c < width; c += LANES) {
            const float* from = weights + int64_t(r) * width + c;
            __m512bh both = _mm512_cvtne2ps_pbh((__m512)load<Floats>(from + width), (__m512)load<Floats>(from));
            store(room.data() + int64_t(r) * width + 2 * c, _mm512_permutexvar_epi16(order, (__m512i)both));
        }
    return room.data();
}
#endif

// Rows as a second matrix of a product that sums over them.
inline const float* woven(const std::vector<float>& tile, int, int, std::vector<float>&) { return tile.data(); }
inline const uint16_t* woven(const std::vector<uint16_t>& tile, int rows, int width, std::vector<uint16_t>& room) {
    room.resize(int64_t(rows) * width);
    for (int r = 0; r < rows; r += 2) {
        const uint16_t* row = tile.data() + r * width;
        weave(row, row + width, width, room.data() + r * width);
    }
    return room.data();
}

}  // namespace
