// What surrounds a product of 8-bit integers: activations to int8, a scale for each row, and sums back to numbers.
//
// int8.py states what is computed. Each is one pass over memory; compiled at first use (compiler.py).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "gelu.hpp"

namespace {

inline float number(float x) { return x; }
inline float number(uint16_t x) { return widened(x); }
inline void put(float* to, float x) { *to = x; }
inline void put(uint16_t* to, float x) { *to = rounded(x); }

// A row of float32 to int8; returns its scale.
inline float quantize_row(const float* row, int8_t* out, int64_t width) {
    float largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < width; i++) largest = std::max(largest, std::fabs(row[i]));
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, ties to even
    const float factor = largest > 0 ? 127.0f / largest : 0.0f;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        float shifted = row[i] * factor + shift;
        int32_t bits;
        std::memcpy(&bits, &shifted, sizeof bits);
        out[i] = int8_t(bits - 0x4b400000);
    }
    return largest / 127.0f;
}

template <class T>
void quantize(const T* in, int8_t* out, float* scales, int64_t rows, int64_t width, int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> row(width);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
#pragma omp simd
            for (int64_t i = 0; i < width; i++) row[i] = number(in[r * width + i]);
            scales[r] = quantize_row(row.data(), out + r * width, width);
        }
    }
}

template <class T>
void dequantize(const int32_t* in, const float* scales, const float* columns, const float* bias, T* out, int64_t rows,
                int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            put(out + r * width + i, float(in[r * width + i]) * (scales[r] * columns[i]) + bias[i]);
    }
}

}  // namespace

extern "C" {

// out [rows, width] = round(in / scale), scales [rows] = largest of a row / 127.
void int8_quantize(const void* in, int8_t* out, float* scales, int64_t rows, int64_t width, int bf16, int threads) {
    if (bf16)
        quantize(static_cast<const uint16_t*>(in), out, scales, rows, width, threads);
    else
        quantize(static_cast<const float*>(in), out, scales, rows, width, threads);
}

// out [rows, width] = in * scales * columns + bias, columns the scales of the weight's rows.
void int8_dequantize(const int32_t* in, const float* scales, const float* columns, const float* bias, void* out,
                     int64_t rows, int64_t width, int bf16, int threads) {
    if (bf16)
        dequantize(in, scales, columns, bias, static_cast<uint16_t*>(out), rows, width, threads);
    else
        dequantize(in, scales, columns, bias, static_cast<float*>(out), rows, width, threads);
}

// gelu(in * scales * columns + bias) as int8 with a scale for each row.
void int8_gelu(const int32_t* in, const float* scales, const float* columns, const float* bias, int8_t* out,
               float* made, int64_t rows, int64_t width, int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> row(width);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            float* to = row.data();
#pragma omp simd
            for (int64_t i = 0; i < width; i++) {
                float bell, x = float(in[r * width + i]) * (scales[r] * columns[i]) + bias[i];
                to[i] = x * normal(x, bell);
            }
            made[r] = quantize_row(to, out + r * width, width);
        }
    }
}

}  // extern "C"
