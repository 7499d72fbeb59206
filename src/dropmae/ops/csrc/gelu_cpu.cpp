// GELU of a linear layer's output in bfloat16 on a CPU: bias, activation and their gradients in one pass each.
//
// What a matrix product left in bfloat16 is read once; bias and activation are computed in float32 and rounded once.
// GELU's derivative, Phi(x) + x phi(x), needs the same exponential as Phi (gelu.hpp). Rows are worked on in blocks of fixed size, so that results do not depend on the number of threads.
// Compiled at first use (compiler.py).

#include <cstdint>
#include <cstring>

#include "gelu.hpp"

namespace {

constexpr int64_t ROWS = 32;  // of a block

}  // namespace

extern "C" {

// out [rows, width] = gelu(in + bias).
void gelu_forward(const uint16_t* in, const float* bias, uint16_t* out, int64_t rows, int64_t width, int threads) {
    int64_t blocks = (rows + ROWS - 1) / ROWS;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t row = block * ROWS; row < rows && row < (block + 1) * ROWS; row++) {
            const uint16_t* from = in + row * width;
            uint16_t* to = out + row * width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++) {
                float bell, x = widened(from[i]) + bias[i];
                to[i] = rounded(x * normal(x, bell));
            }
        }
}

// made [rows, width] = grad gelu'(in + bias), and its sums over each block of ROWS rows, float32 [blocks, width].
void gelu_backward(const uint16_t* in, const float* bias, const uint16_t* grad, uint16_t* made, float* sums,
                   int64_t rows, int64_t width, int threads) {
    int64_t blocks = (rows + ROWS - 1) / ROWS;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < blocks; block++) {
        float* sum = sums + block * width;
        std::memset(sum, 0, sizeof(float) * width);
        for (int64_t row = block * ROWS; row < rows && row < (block + 1) * ROWS; row++) {
            const uint16_t *from = in + row * width, *above = grad + row * width;
            uint16_t* to = made + row * width;
#pragma omp simd
            for (int64_t i = 0; i < width; i++) {
                float bell, x = widened(from[i]) + bias[i];
                float share = normal(x, bell);
                float value = widened(above[i]) * (share + x * 0.398942280f * bell);
                to[i] = rounded(value);
                sum[i] += value;
            }
        }
    }
}

int64_t gelu_rows() { return ROWS; }

}  // extern "C"
