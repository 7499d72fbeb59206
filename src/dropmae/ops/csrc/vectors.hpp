// Vectors of this processor's width, and exp and log on them. Plain C++17 with GCC/Clang vector extensions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

// Numbers in a vector, and the tile of ROWS x TILE vectors that fits the registers, or COLUMNS x TILE for the gradients
// of keys and values; COLUMNS divides PADDING.
#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8, TILE = 2, COLUMNS = 8;
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 6, TILE = 2, COLUMNS = 4;
#elif defined(__ARM_NEON)
constexpr int LANES = 4, ROWS = 8, TILE = 2, COLUMNS = 8;
#else
constexpr int LANES = 4, ROWS = 6, TILE = 2, COLUMNS = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

template <class V, class T>
inline V load(const T* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
template <class V, class T>
inline void store(T* to, V v) {
    std::memcpy(to, &v, sizeof v);
}
inline Floats all(float x) { return Floats{} + x; }

inline Ints lane_numbers() {
    Ints v;
    for (int i = 0; i < LANES; i++) v[i] = i;
    return v;
}

inline float sum(Floats v) {
    float part[LANES];
    store(part, v);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) part[i] += part[i + width];
    return part[0];
}

inline float largest(Floats v) {
    float part[LANES];
    store(part, v);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) part[i] = std::max(part[i], part[i + width]);
    return part[0];
}

// exp(x) to about 1 unit in the last place; 0 below -87, and held at exp(88) above.
inline Floats exponential(Floats x) {
    const Floats shifter = all(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
    Ints none = x < -87.f;
    x = x > 88.f ? all(88.f) : x;
    x = none ? all(-87.f) : x;
    Floats shifted = x * 1.44269504f + shifter;
    Floats n = shifted - shifter;
    Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.f;
    Floats power = (Floats)(((Ints)shifted << 23) + (127 << 23));
    Floats y = p * power;
    return none ? all(0.f) : y;
}

// log(x) of normal positive x, to about 1 unit in the last place, near 1 too.
inline Floats logarithm(Floats x) {
    Ints bits = (Ints)x;
    Ints e = (bits - 0x3f3504f3) >> 23;  // the mantissa lands in [sqrt(1/2), sqrt(2))
    Floats f = (Floats)(bits - (e << 23)) - 1.f;
    Floats n = __builtin_convertvector(e, Floats);
    Floats p = f * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    Floats square = f * f;
    Floats y = p * f * square + n * -2.12194440e-4f - square * 0.5f;
    return f + y + n * 0.693359375f;
}

inline float read(const float* x) { return *x; }
inline float read(const uint16_t* x) {  // bfloat16
    uint32_t bits = uint32_t(*x) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}
inline void write(float* to, float x) { *to = x; }
inline void write(uint16_t* to, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    *to = x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace
