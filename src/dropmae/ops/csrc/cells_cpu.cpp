// Gradients, colours and grey of the cells of pictures: the same as cells.py, in one pass over each picture.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int CELL = 4, BINS = 9, COLOURS = 11, LEVELS = 32;
constexpr int GRADIENTS = 3 * BINS + 4, CHANNELS = GRADIENTS + COLOURS + 1;
constexpr float CLIP = 0.2f;

// The strongest difference, across and down, of the three colours at each pixel of a row, and 1 / its length.
void differences(const uint8_t* picture, int side, int y, float* across, float* down, float* inverse) {
    const uint8_t* here = picture + int64_t(y) * side * 3;
    const uint8_t* above = picture + int64_t(std::max(y - 1, 0)) * side * 3;
    const uint8_t* below = picture + int64_t(std::min(y + 1, side - 1)) * side * 3;
    for (int x = 0; x < side; x++) {
        const int left = 3 * std::max(x - 1, 0), right = 3 * std::min(x + 1, side - 1);
        int best = -1, dx = 0, dy = 0;
        for (int c = 0; c < 3; c++) {
            const int h = int(here[right + c]) - here[left + c], v = int(below[3 * x + c]) - above[3 * x + c];
            const int length = h * h + v * v;
            if (length > best) best = length, dx = h, dy = v;
        }
        across[x] = float(dx), down[x] = float(dy);
        inverse[x] = 1.0f / (std::sqrt(float(best)) + 1e-3f);
    }
}

// [2 BINS, side / 2, side / 2]: sums over 2 x 2 pixels of what their gradients give to each bin, with its sign.
void histograms(const uint8_t* picture, int side, float* sums) {
    const int half = side / 2;
    std::vector<float> row(3 * side), pair(2 * BINS * side);
    for (int y = 0; y < side; y++) {
        if (y % 2 == 0) std::fill(pair.begin(), pair.end(), 0.0f);
        float *across = row.data(), *down = across + side, *inverse = down + side;
        differences(picture, side, y, across, down, inverse);
        for (int k = 0; k < BINS; k++) {
            const float angle = float(k * 3.14159265358979323846 / BINS), cosine = std::cos(angle), sine = std::sin(angle);
            float *plus = pair.data() + k * side, *minus = pair.data() + (BINS + k) * side;
#pragma omp simd
            for (int x = 0; x < side; x++) {
                const float along = cosine * across[x] + sine * down[x], share = along * inverse[x];
                const float given = along * share * share;
                plus[x] += std::max(given, 0.0f);
                minus[x] += std::max(-given, 0.0f);
            }
        }
        if (y % 2 == 0) continue;
        for (int k = 0; k < 2 * BINS; k++)
            for (int x = 0; x < half; x++)
                sums[(int64_t(k) * half + y / 2) * half + x] = pair[k * side + 2 * x] + pair[k * side + 2 * x + 1];
    }
}

// Means over squares of two cells' side around each cell, of which those at the border are cut.
void pooled(const float* sums, int half, int n, float* out) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            const int top = std::max(2 * i - 1, 0), end = std::min(2 * i + 3, half);
            const int left = std::max(2 * j - 1, 0), stop = std::min(2 * j + 3, half);
            float sum = 0;
            for (int y = top; y < end; y++)
                for (int x = left; x < stop; x++) sum += sums[int64_t(y) * half + x];
            out[i * n + j] = sum / float(4 * (end - top) * (stop - left));
        }
}

void gradients(const uint8_t* picture, int side, float* out) {
    const int n = side / CELL, half = side / 2, area = n * n, wide = n + 1;
    std::vector<float> sums(int64_t(2 * BINS) * half * half), signs(2 * BINS * area), plain(BINS * area), energy(area, 0.0f);
    histograms(picture, side, sums.data());
    for (int k = 0; k < 2 * BINS; k++) pooled(sums.data() + int64_t(k) * half * half, half, n, signs.data() + k * area);
    for (int k = 0; k < BINS; k++)
        for (int i = 0; i < area; i++) {
            const float both = signs[k * area + i] + signs[(BINS + k) * area + i];
            plain[k * area + i] = both;
            energy[i] += both * both;
        }
    std::vector<float> scales(wide * wide);
    for (int y = 0; y < wide; y++)
        for (int x = 0; x < wide; x++) {
            const int top = std::max(y - 1, 0), below = std::min(y, n - 1), left = std::max(x - 1, 0), right = std::min(x, n - 1);
            const float sum = energy[top * n + left] + energy[top * n + right] + energy[below * n + left] + energy[below * n + right];
            scales[y * wide + x] = 1.0f / std::sqrt(sum + 1.0f);
        }
    std::fill(out, out + GRADIENTS * area, 0.0f);
    for (int part = 0; part < 4; part++)
        for (int y = 0; y < n; y++) {
            const float* scale = scales.data() + (y + part / 2) * wide + part % 2;
            float* texture = out + (3 * BINS + part) * area + y * n;
            for (int k = 0; k < 3 * BINS; k++) {
                const float* from = (k < 2 * BINS ? signs.data() + k * area : plain.data() + (k - 2 * BINS) * area) + y * n;
                float* to = out + k * area + y * n;
                const float share = k < 2 * BINS ? 1.0f / std::sqrt(2.0f * BINS) : 0.0f;
#pragma omp simd
                for (int x = 0; x < n; x++) {
                    const float one = std::min(from[x] * scale[x], CLIP);
                    to[x] += one / 2;
                    texture[x] += one * share;
                }
            }
        }
}

void colours(const uint8_t* picture, int side, const float* table, float* out, float* grey) {
    const int n = side / CELL, area = n * n;
    for (int y = 0; y < n; y++)
        for (int x = 0; x < n; x++) {
            float share[COLOURS] = {};
            int total = 0;
            for (int part = 0; part < 4; part++) {
                const uint8_t* at = picture + ((int64_t(y) * CELL + 2 * (part / 2)) * side + x * CELL + 2 * (part % 2)) * 3;
                int number = 0;
                for (int c = 0; c < 3; c++) {
                    const int sum = at[c] + at[c + 3] + at[c + 3 * side] + at[c + 3 * side + 3];
                    total += sum;
                    number = number * LEVELS + sum * LEVELS / 1024;
                }
                for (int k = 0; k < COLOURS; k++) share[k] += table[number * COLOURS + k];
            }
            for (int k = 0; k < COLOURS; k++) out[k * area + y * n + x] = share[k] / 4;
            grey[y * n + x] = float(total) / (3 * CELL * CELL * 255.0f) - 0.5f;
        }
}

}  // namespace

extern "C" {

// out float [count, 43, side / 4, side / 4] of pictures [count, side, side, 3]; table [32 ^ 3, 11] of colours.
void cells(const uint8_t* pictures, const float* table, float* out, int64_t count, int64_t side, int threads) {
    const int64_t area = (side / CELL) * (side / CELL);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t b = 0; b < count; b++) {
        const uint8_t* picture = pictures + b * side * side * 3;
        float* to = out + b * CHANNELS * area;
        gradients(picture, int(side), to);
        colours(picture, int(side), table, to + GRADIENTS * area, to + (CHANNELS - 1) * area);
    }
}
}
