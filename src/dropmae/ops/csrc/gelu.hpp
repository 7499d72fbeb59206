// GELU of numbers, one at a time, in loops plain enough that any compiler makes vectors of them.
//
// Phi(x) is Abramowitz and Stegun's 7.1.26, 1.5e-7 off at most.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

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
