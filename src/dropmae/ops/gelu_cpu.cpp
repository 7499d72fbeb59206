// GELU of a linear layer's output in bfloat16 on a CPU: bias, activation and their gradients in one pass each.
//
// What a matrix product left in bfloat16 is read once; bias and activation are computed in float32 and rounded once.
// Phi(x) is Abramowitz and Stegun's 7.1.26, 1.5e-7 off at most; GELU's derivative, Phi(x) + x phi(x), needs the same
// exponential. Rows are worked on in blocks of fixed size, so that results do not depend on the number of threads.
// Compiled at first use (compiler.py); the loops are plain so that any compiler makes vectors of them.

#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t ROWS = 32;  // of a block

inline float widened(uint16_t half) {
    uint32_t bits = uint32_t(half) << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

inline uint16_t rounded(float x) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// exp(x) for x <= 0, by 2^n times a polynomial of the rest; 0 below -87.
inline float exponential(float given) {
    float x = given < -87.0f ? -87.0f : given;
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    float n = (x * 1.44269504f + shift) - shift;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f + r * (1.0f + r * (0.5f + r * (0.166666657f + r * (4.16695364e-2f + r * (8.36989097e-3f + r * 1.39e-3f)))));
    uint32_t bits = uint32_t(int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return given < -87.0f ? 0.0f : p * power;
}

// Phi(x), and exp(-x^2 / 2) for the density.
inline float normal(float x, float& bell) {
    float a = x < 0 ? -x : x;
    float t = 1.0f / (1.0f + 0.3275911f * 0.707106781f * a);
    bell = exponential(-0.5f * x * x);
    float tail = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    tail *= 0.5f * bell;
    return x < 0 ? tail : 1.0f - tail;
}

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
