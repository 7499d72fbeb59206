// Softmax attention on a CPU, forward and backward, plain or with spatial-attention dropout, one sample and head at a
// time.
//
// asad.py states what is dropped and holds the names used here: F tokens a frame, L = 2 F, W, the race W / E, N_d. One
// head (at F = 196 some 1.3 MB) stays in the core's own cache from the logits to the output; nothing of size L x L
// reaches memory but one bit for each within-frame pair, which the backward pass needs.
//
// Sums are float32, and so is all arithmetic on float32 tensors. On bfloat16 tensors, where the processor multiplies
// pairs of bfloat16 (AVX512-BF16), products take their factors in bfloat16: queries, keys, values and the gradient are
// that already, so logits lose nothing; shares, and in the backward pass their slopes, are rounded. Elsewhere bfloat16
// is widened. Heads are independent and each is computed in one fixed order, so results do not depend on the number of
// threads. Plain C++17 with GCC/Clang vector extensions: it is compiled at first use (compiler.py) for the processor at
// hand.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "products.hpp"
#include "vectors.hpp"

namespace {

constexpr int PADDING = 16;      // keys of a frame are padded to multiples of it on every processor
constexpr int BLOCK = 8 * ROWS;  // queries whose gradients reach keys and values together
constexpr int BINS = 1 << 11, BIN_SHIFT = 20;  // the histogram's bins: exponent and three bits of the mantissa
constexpr float EPSILON = 1e-6f;
constexpr float FAINT = 1e-18f;  // below it a row's kept sum is computed anew from the kept maximum

// noise.py: mix and uniform. A number is a hash of its key and its position, the same on every device.
inline Words mix(Words x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}
inline Floats uniform(uint32_t key, Words position) {
    Words bits = mix(key ^ (position * 0x9e3779b9u));
    return (__builtin_convertvector((Ints)(bits >> 9), Floats) + 0.5f) * 0x1p-23f;
}

// A [B, H, L, D] tensor whose last dimension is contiguous.
template <class T>
struct Tensor {
    T* data;
    int64_t strides[3];
    T* row(int64_t b, int64_t h, int64_t i) const { return data + b * strides[0] + h * strides[1] + i * strides[2]; }
};

inline int padded(int n, int to) { return (n + to - 1) / to * to; }

// Plain attention is that of one "frame" to one, of any two lengths; F is then the number of keys.
struct Sizes {
    int frames, queries, frame, depth;  // queries of a frame, keys of a frame (F), D
    int columns;                        // keys of a frame, padded
    int width;                          // keys of all frames, so padded
    int deep;                           // D padded to whole vectors
    Sizes(int frames, int64_t queries, int64_t keys, int64_t depth)
        : frames(frames), queries(int(queries)), frame(int(keys)), depth(int(depth)), columns(padded(frame, PADDING)),
          width(frames * columns), deep(padded(this->depth, LANES)) {}
    int column(int key) const { return key < frame ? key : key - frame + columns; }
    Ints outside(int c) const { return lane_numbers() + c >= frame; }  // which of columns c ... are padding
    int whole() const { return frame / LANES * LANES; }            // columns before the first padded vector
    int tile(int i) const { return std::min(ROWS, queries - i); }  // queries from the i-th on, at most ROWS
};

// All tokens as the second matrix of a product: of one that sums over tokens, with columns [deep] (`rows`), and of one
// that sums over the depth, with columns [width] (`across`); padding stays zero.
template <class P, class T>
void gather(const Sizes& s, const Tensor<const T>& from, int64_t b, int64_t h, typename P::Number* rows,
            typename P::Number* across) {
    for (int frame = 0; frame < s.frames; frame++)
        for (int i = 0; i < s.frame; i++) {
            const T* x = from.row(b, h, frame * s.frame + i);
            const int place = frame * s.columns + i;
            if (rows && i % P::STEP == 0)
                weave(x, i + 1 < s.frame ? from.row(b, h, frame * s.frame + i + 1) : nullptr, s.depth,
                      rows + int64_t(place) * s.deep);
            if (!across) continue;
            auto* to = across + place * P::STEP;
            int d = 0;
            for (; d + P::STEP <= s.depth; d += P::STEP) take(to + int64_t(d) * s.width, x + d, P::STEP);
            for (; d < s.depth; d++) take(to + int64_t(d) * s.width, x + d, 1);
        }
}

// ROWS query rows [ROWS, deep] from row i of a frame on; those beyond its end are zero.
template <class P, class T>
void gather_tile(const Sizes& s, const Tensor<const T>& from, int64_t b, int64_t h, int frame, int i,
                 typename P::Number* tile) {
    if (s.tile(i) < ROWS || s.depth < s.deep) std::memset(tile, 0, sizeof(*tile) * ROWS * s.deep);
    for (int r = 0; r < s.tile(i); r++) {
        const T* x = from.row(b, h, frame * s.queries + i + r);
        take(tile + r * s.deep, x, s.depth);
    }
}

// out[r][c] = scale * sum over d of tile[r][d] across[d][c], for every column.
template <class P>
void products(const Sizes& s, const typename P::Number* tile, const typename P::Number* across, float scale,
              float* out) {
    multiply<P, ROWS, false>(tile, s.deep, P::STEP, across, s.width, (s.depth + P::STEP - 1) / P::STEP, scale, out);
}

// The threshold of a head: pairs above `bits` are dropped, and those equal to it up to position `last`.
struct Threshold {
    int32_t bits = 0, last = -1;
};

template <class P>
struct Workspace {
    using Number = typename P::Number;
    std::vector<Number> keys, values, across, across_values;  // second matrices of products
    std::vector<Number> tile, grads, woven, rounded;
    std::vector<float> outputs, scores, slopes, key_grads, value_grads;
    std::vector<float> peaks;           // row maxima
    std::vector<int32_t> race, nearby;  // W / E as the bits of a positive float, which order as integers do
    std::vector<uint32_t> bins;
};

// Gives the padding of a frame's columns one value.
inline void pad_row(const Sizes& s, float* row, float value) {
    for (int c = s.whole(); c < s.columns; c += LANES) store(row + c, s.outside(c) ? all(value) : load<Floats>(row + c));
}

// Turns a row of logits into exp(logit - its maximum) and finds the race of the same-frame pairs.
// Returns the maximum. `same` is where the query's own frame starts, `self` its own column there.
float run_row(const Sizes& s, float* row, int same, int self, uint32_t key, int32_t position, int32_t* race,
              uint32_t* bins) {
    const float none = -std::numeric_limits<float>::infinity();
    float* mine = row + same;
    float* others = row + (s.columns - same);
    Floats peak_mine = all(none), peak_others = all(none);
    pad_row(s, mine, none);
    pad_row(s, others, none);
    for (int c = 0; c < s.columns; c += LANES) {
        Floats a = load<Floats>(mine + c), b = load<Floats>(others + c);
        peak_mine = a > peak_mine ? a : peak_mine;
        peak_others = b > peak_others ? b : peak_others;
    }
    const float other_peak = largest(peak_others), peak = std::max(largest(peak_mine), other_peak);
    Floats total_others{};
    for (int c = 0; c < s.columns; c += LANES) {
        Floats a = exponential(load<Floats>(mine + c) - peak), b = exponential(load<Floats>(others + c) - peak);
        store(mine + c, a);
        store(others + c, b);
        total_others += b;
    }
    const float own = mine[self];
    mine[self] = 0;  // summed without it: beside a strong self-attention the others' sum would lose its digits
    Floats total_mine{};
    for (int c = 0; c < s.columns; c += LANES) total_mine += load<Floats>(mine + c);
    const float spatial = sum(total_mine), scale = 1.f / (spatial + sum(total_others) + own);
    const float temporal = std::exp(other_peak - peak) * scale + EPSILON;
    const float factor = temporal / (spatial * scale + EPSILON * float(s.frame - 1));
    for (int c = 0; c < s.columns; c += LANES) {
        Floats weight = (load<Floats>(mine + c) * scale + EPSILON) * factor;
        Floats late = logarithm(uniform(key, (Words)(lane_numbers() + (position + c))));
        Ints bits = (Ints)(weight / -late) & 0x7fffffff;  // a NaN, too, has a bin
        store(race + c, bits);
    }
    for (int c = s.whole(); c < s.columns; c += LANES) store(race + c, s.outside(c) ? Ints{} : load<Ints>(race + c));
    race[self] = 0;
    mine[self] = own;
    for (int j = 0; j + 1 < s.frame; j += 2) {  // two tables: neighbours often share a bin
        bins[uint32_t(race[j]) >> BIN_SHIFT]++;
        bins[BINS + (uint32_t(race[j + 1]) >> BIN_SHIFT)]++;
    }
    if (s.frame % 2) bins[uint32_t(race[s.frame - 1]) >> BIN_SHIFT]++;
    return peak;
}

// Lanes c ... of a row of bits, from and to vectors of 0 and -1.
inline void store_bits(uint8_t* bits, int c, Ints lanes) {
    Bytes ones = __builtin_convertvector(lanes & 1, Bytes);
    if (LANES >= 8) {
        for (int part = 0; part < LANES / 8; part++) {
            uint64_t eight;
            std::memcpy(&eight, reinterpret_cast<const uint8_t*>(&ones) + 8 * part, 8);
            bits[c / 8 + part] = uint8_t((eight * 0x0102040810204080u) >> 56);
        }
    } else {
        uint8_t half = 0;
        for (int i = 0; i < LANES; i++) half |= uint8_t(ones[i] << i);
        bits[c / 8] = c % 8 ? uint8_t(bits[c / 8] | half << 4) : half;
    }
}
inline Ints load_bits(const uint8_t* bits, int c) {
    int32_t word = 0;
    for (int part = 0; part < (LANES + 7) / 8; part++) word |= int32_t(bits[c / 8 + part]) << (8 * part);
    return (((word >> (c % 8)) >> lane_numbers()) & 1) != 0;
}

// The count-th largest of the race, exactly; of equal ones those at lower positions come first.
Threshold select(const Sizes& s, const int32_t* race, const uint32_t* bins, int64_t count, std::vector<int32_t>& near) {
    int64_t above = 0;
    int bin = BINS - 1;
    for (;; bin--) {
        const int64_t here = int64_t(bins[bin]) + bins[BINS + bin];
        if (above + here >= count || bin == 0) break;
        above += here;
    }
    near.clear();
    for (int i = 0; i < 2 * s.frame; i++) {
        const int32_t* row = race + int64_t(i) * s.columns;
        for (int j = 0; j < s.frame; j++)
            if (int(uint32_t(row[j]) >> BIN_SHIFT) == bin) near.push_back(row[j]);
    }
    const int64_t wanted = count - above;
    std::nth_element(near.begin(), near.begin() + (wanted - 1), near.end(), std::greater<int32_t>());
    Threshold found;
    found.bits = near[wanted - 1];
    int64_t equal = 0, greater = 0;
    for (int32_t x : near) {
        equal += x == found.bits;
        greater += x > found.bits;
    }
    int64_t ties = wanted - greater;
    if (equal == ties) {
        found.last = std::numeric_limits<int32_t>::max();
        return found;
    }
    for (int i = 0; i < 2 * s.frame && ties; i++)
        for (int j = 0; j < s.frame && ties; j++)
            if (race[int64_t(i) * s.columns + j] == found.bits && !--ties) found.last = i * s.frame + j;
    return found;
}

// Sets the dropped pairs of a row of exponentials to zero, notes them as bits, and returns the sum of what is kept.
float drop_row(const Sizes& s, float* row, int same, const int32_t* race, int32_t position, const Threshold& t,
               uint8_t* dropped) {
    Floats total{};
    for (int c = 0; c < s.columns; c += LANES) {
        Ints bits = load<Ints>(race + c);
        Ints drop = (bits > t.bits) | ((bits == t.bits) & (lane_numbers() + (position + c) <= t.last));
        if (c >= s.whole()) drop &= ~s.outside(c);
        Floats kept = drop ? all(0.f) : load<Floats>(row + same + c);
        store(row + same + c, kept);
        total += kept + load<Floats>(row + (s.columns - same) + c);
        store_bits(dropped, c, drop);
    }
    return sum(total);
}

// A row whose kept part is faint beside what was dropped: softmax over the kept logits anew. Returns its maximum.
template <class P>
float redo_row(const Sizes& s, const typename P::Number* query, const typename P::Number* across, float scale, int same,
               const uint8_t* dropped, float* row, float* total) {
    std::vector<float> logits(s.width, -std::numeric_limits<float>::infinity());
    float peak = -std::numeric_limits<float>::infinity();
    for (int token = 0; token < 2 * s.frame; token++) {
        const int c = s.column(token), j = c - same;
        if (j >= 0 && j < s.columns && (dropped[j / 8] >> (j % 8) & 1)) continue;
        float dot = 0;
        for (int d = 0; d < s.depth; d++) dot += read(query + d) * read(across + (d - d % P::STEP) * s.width + c * P::STEP + d % P::STEP);
        logits[c] = dot * scale;
        peak = std::max(peak, logits[c]);
    }
    *total = 0;
    for (int c = 0; c < s.width; c++) *total += row[c] = std::exp(logits[c] - peak);
    return peak;
}

// Keys and values of one head, and room for `rows` rows of scores.
template <class P, class T>
void prepare(const Sizes& s, Workspace<P>& w, const Tensor<const T>& key, const Tensor<const T>& value, int64_t b,
             int64_t h, int rows) {
    w.across.assign(size_t(padded(s.depth, P::STEP)) * s.width, 0);
    w.values.assign(size_t(s.width) * s.deep, 0);
    w.tile.resize(ROWS * s.deep);
    w.outputs.resize(ROWS * s.deep);
    w.scores.resize(size_t(rows) * s.width);
    gather<P>(s, key, b, h, nullptr, w.across.data());
    gather<P>(s, value, b, h, w.values.data(), nullptr);
}

// outputs[r][d] = sum over columns c of weights[r][c] rows[c][d].
template <class P>
void combine(const Sizes& s, Workspace<P>& w, const float* weights, const typename P::Number* rows, float factor) {
    const auto* a = rounded_rows(weights, ROWS, s.width, w.rounded);
    multiply<P, ROWS, false>(a, s.width, P::STEP, rows, s.deep, s.width / P::STEP, factor, w.outputs.data());
}

// The output of a tile of queries from its unnormalised weights.
template <class P, class T>
void write_tile(const Sizes& s, Workspace<P>& w, const float* weights, const float* factors, const Tensor<T>& out,
                int64_t b, int64_t h, int frame, int i) {
    combine(s, w, weights, w.values.data(), 1.f);
    for (int r = 0; r < s.tile(i); r++) {
        T* to = out.row(b, h, frame * s.queries + i + r);
        for (int d = 0; d < s.depth; d++) write(to + d, w.outputs[r * s.deep + d] * factors[r]);
    }
}

// Turns a row of logits into exp(logit - its maximum), with the sum of these; returns the maximum.
float soften_row(const Sizes& s, float* row, float* total) {
    const float none = -std::numeric_limits<float>::infinity();
    pad_row(s, row, none);
    Floats peaks = all(none), sums{};
    for (int c = 0; c < s.width; c += LANES) {
        Floats x = load<Floats>(row + c);
        peaks = x > peaks ? x : peaks;
    }
    const float peak = largest(peaks);
    for (int c = 0; c < s.width; c += LANES) {
        Floats x = exponential(load<Floats>(row + c) - peak);
        store(row + c, x);
        sums += x;
    }
    *total = sum(sums);
    return peak;
}

template <class P, class T>
void forward_head(const Sizes& s, Workspace<P>& w, const Tensor<const T>& query, const Tensor<const T>& key,
                  const Tensor<const T>& value, const Tensor<T>& out, float* norms, float scale, int64_t b, int64_t h) {
    prepare(s, w, key, value, b, h, ROWS);
    for (int i = 0; i < s.queries; i += ROWS) {
        gather_tile<P>(s, query, b, h, 0, i, w.tile.data());
        products<P>(s, w.tile.data(), w.across.data(), scale, w.scores.data());
        float factors[ROWS] = {};
        for (int r = 0; r < s.tile(i); r++) {
            float total;
            const float peak = soften_row(s, w.scores.data() + r * s.width, &total);
            norms[i + r] = peak + std::log(total);
            factors[r] = 1.f / total;
        }
        write_tile(s, w, w.scores.data(), factors, out, b, h, 0, i);
    }
}

template <class P, class T>
void dropping_forward_head(const Sizes& s, Workspace<P>& w, const Tensor<const T>& query, const Tensor<const T>& key,
                           const Tensor<const T>& value, const Tensor<T>& out, float* norms, uint8_t* dropped,
                           uint32_t seed, int64_t count, float scale, int64_t b, int64_t h) {
    const int rows = padded(s.frame, ROWS);
    prepare(s, w, key, value, b, h, 2 * rows);
    w.race.resize(size_t(2 * s.frame) * s.columns);
    w.peaks.resize(2 * s.frame);
    w.bins.assign(2 * BINS, 0);
    for (int frame = 0; frame < 2; frame++)
        for (int i = 0; i < s.frame; i += ROWS) {
            float* scores = w.scores.data() + size_t(frame * rows + i) * s.width;
            gather_tile<P>(s, query, b, h, frame, i, w.tile.data());
            products<P>(s, w.tile.data(), w.across.data(), scale, scores);
            for (int r = 0; r < s.tile(i); r++) {
                const int token = frame * s.frame + i + r;
                w.peaks[token] = run_row(s, scores + r * s.width, frame * s.columns, i + r, seed, token * s.frame,
                                         w.race.data() + size_t(token) * s.columns, w.bins.data());
            }
        }
    const Threshold threshold = select(s, w.race.data(), w.bins.data(), count, w.nearby);
    for (int frame = 0; frame < 2; frame++)
        for (int i = 0; i < s.frame; i += ROWS) {
            float* scores = w.scores.data() + size_t(frame * rows + i) * s.width;
            float factors[ROWS] = {};
            for (int r = 0; r < s.tile(i); r++) {
                const int token = frame * s.frame + i + r, same = frame * s.columns;
                uint8_t* bits = dropped + size_t(token) * (s.columns / 8);
                float *row = scores + r * s.width, peak = w.peaks[token];
                float total = drop_row(s, row, same, w.race.data() + size_t(token) * s.columns, token * s.frame,
                                       threshold, bits);
                if (!(total > FAINT)) {
                    gather_tile<P>(s, query, b, h, frame, i, w.tile.data());
                    peak = redo_row<P>(s, w.tile.data() + r * s.deep, w.across.data(), scale, same, bits, row, &total);
                }
                norms[token] = peak + std::log(total);
                factors[r] = 1.f / total;
            }
            write_tile(s, w, scores, factors, out, b, h, frame, i);
        }
}

// Turns a row of logits into attention shares and, given the shares' gradients in `slope`, those into the logits'.
void differentiate_row(const Sizes& s, float* share, float* slope, int same, float norm, const uint8_t* dropped) {
    Floats total{};
    for (int c = 0; c < s.width; c += LANES) {
        Floats kept = exponential(load<Floats>(share + c) - norm);
        if (dropped && c >= same && c < same + s.columns) kept = load_bits(dropped, c - same) ? all(0.f) : kept;
        if (c % s.columns >= s.whole()) kept = s.outside(c % s.columns) ? all(0.f) : kept;
        store(share + c, kept);
        total += kept * load<Floats>(slope + c);
    }
    const float mean = sum(total);
    for (int c = 0; c < s.width; c += LANES)
        store(slope + c, load<Floats>(share + c) * (load<Floats>(slope + c) - mean));
}

// sums[c][d] += sum over rows r of weights[r][c] tiles[r][d]; `woven` holds the tiles' rows as a second matrix.
template <class P>
void scatter(const Sizes& s, const float* weights, int rows, const typename P::Number* woven,
             std::vector<typename P::Number>& room, float* sums) {
    const auto* a = rounded_columns(weights, rows, s.width, room);
    for (int c = 0; c < s.width; c += COLUMNS)
        multiply<P, COLUMNS, true>(a + c * P::STEP, P::STEP, int64_t(s.width) * P::STEP, woven, s.deep, rows / P::STEP,
                                   1.f, sums + int64_t(c) * s.deep);
}

template <class P, class T>
void backward_head(const Sizes& s, Workspace<P>& w, const Tensor<const T>& query, const Tensor<const T>& key,
                   const Tensor<const T>& value, const Tensor<const T>& grad, const Tensor<T>& query_grad,
                   const Tensor<T>& key_grad, const Tensor<T>& value_grad, const uint8_t* dropped,
                   const float* norms, float scale, int64_t b, int64_t h) {
    w.across.assign(size_t(padded(s.depth, P::STEP)) * s.width, 0);
    w.across_values.assign(size_t(padded(s.depth, P::STEP)) * s.width, 0);
    w.keys.assign(size_t(s.width) * s.deep, 0);
    w.key_grads.assign(size_t(s.width) * s.deep, 0);
    w.value_grads.assign(size_t(s.width) * s.deep, 0);
    w.tile.resize(BLOCK * s.deep);
    w.grads.resize(BLOCK * s.deep);
    w.outputs.resize(ROWS * s.deep);
    w.scores.resize(size_t(BLOCK) * s.width);
    w.slopes.resize(size_t(BLOCK) * s.width);
    gather<P>(s, key, b, h, w.keys.data(), w.across.data());
    gather<P>(s, value, b, h, nullptr, w.across_values.data());
    for (int frame = 0; frame < s.frames; frame++)
        for (int start = 0; start < s.queries; start += BLOCK) {
            const int rows = std::min(BLOCK, padded(s.queries - start, ROWS));
            for (int i = 0; i < rows; i += ROWS) {
                float *share = w.scores.data() + i * s.width, *slope = w.slopes.data() + i * s.width;
                auto *queries = w.tile.data() + i * s.deep, *grads = w.grads.data() + i * s.deep;
                gather_tile<P>(s, query, b, h, frame, start + i, queries);
                gather_tile<P>(s, grad, b, h, frame, start + i, grads);
                products<P>(s, queries, w.across.data(), scale, share);
                products<P>(s, grads, w.across_values.data(), 1.f, slope);
                for (int r = 0; r < s.tile(start + i); r++) {
                    const int token = frame * s.queries + start + i + r;
                    differentiate_row(s, share + r * s.width, slope + r * s.width, frame * s.columns, norms[token],
                                      dropped ? dropped + size_t(token) * (s.columns / 8) : nullptr);
                }
                combine(s, w, slope, w.keys.data(), scale);
                for (int r = 0; r < s.tile(start + i); r++) {
                    T* to = query_grad.row(b, h, frame * s.queries + start + i + r);
                    for (int d = 0; d < s.depth; d++) write(to + d, w.outputs[r * s.deep + d]);
                }
            }
            scatter<P>(s, w.scores.data(), rows, woven(w.grads, rows, s.deep, w.woven), w.rounded, w.value_grads.data());
            scatter<P>(s, w.slopes.data(), rows, woven(w.tile, rows, s.deep, w.woven), w.rounded, w.key_grads.data());
        }
    for (int token = 0; token < s.frames * s.frame; token++) {
        T *to_key = key_grad.row(b, h, token), *to_value = value_grad.row(b, h, token);
        const size_t from = size_t(s.column(token)) * s.deep;
        for (int d = 0; d < s.depth; d++) {
            write(to_key + d, w.key_grads[from + d] * scale);
            write(to_value + d, w.value_grads[from + d]);
        }
    }
}

// One Tensor from a pointer and three of the caller's strides.
template <class T>
Tensor<T> tensor(void* const* data, const int64_t* strides, int number) {
    const int64_t* s = strides + 3 * number;
    return {static_cast<T*>(data[number]), {s[0], s[1], s[2]}};
}

// Sizes of a call: batch, heads, queries, keys and depth, of which two frames share queries and keys if pairs drop.
Sizes sizes_of(const int64_t* shape, bool drops) {
    const int frames = drops ? 2 : 1;
    return Sizes(frames, shape[2] / frames, shape[3] / frames, shape[4]);
}

template <class T>
void forward(void* const* data, const int64_t* strides, float* norms, uint8_t* dropped, const int32_t* seeds,
             const int64_t* shape, int64_t count, float scale, int threads) {
    const Sizes s = sizes_of(shape, dropped != nullptr);
    const int64_t heads = shape[1], length = shape[2];
    const auto query = tensor<const T>(data, strides, 0), key = tensor<const T>(data, strides, 1);
    const auto value = tensor<const T>(data, strides, 2);
    const auto out = tensor<T>(data, strides, 3);
#pragma omp parallel num_threads(threads)
    {
        Workspace<Factors<T>> w;
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < shape[0] * heads; n++) {
            const int64_t b = n / heads, h = n % heads;
            if (dropped)
                dropping_forward_head(s, w, query, key, value, out, norms + n * length,
                                      dropped + n * length * (s.columns / 8), uint32_t(seeds[n]), count, scale, b, h);
            else
                forward_head(s, w, query, key, value, out, norms + n * length, scale, b, h);
        }
    }
}

template <class T>
void backward(void* const* data, const int64_t* strides, const float* norms, const uint8_t* dropped,
              const int64_t* shape, float scale, int threads) {
    const Sizes s = sizes_of(shape, dropped != nullptr);
    const int64_t heads = shape[1], length = shape[2];
    const auto query = tensor<const T>(data, strides, 0), key = tensor<const T>(data, strides, 1);
    const auto value = tensor<const T>(data, strides, 2), grad = tensor<const T>(data, strides, 3);
    const auto query_grad = tensor<T>(data, strides, 4), key_grad = tensor<T>(data, strides, 5);
    const auto value_grad = tensor<T>(data, strides, 6);
#pragma omp parallel num_threads(threads)
    {
        Workspace<Factors<T>> w;
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < shape[0] * heads; n++)
            backward_head(s, w, query, key, value, grad, query_grad, key_grad, value_grad,
                          dropped ? dropped + n * length * (s.columns / 8) : nullptr, norms + n * length, scale,
                          n / heads, n % heads);
    }
}

}  // namespace

extern "C" {

// data and strides: query, key, value, out [B, H, tokens, D]; shape: B, H, queries, keys, D. norms: float [B, H, L].
// dropped: uint8 [B, H, L, padded F / 8], or null for plain attention; then seeds and count are not read.
void attention_forward(void* const* data, const int64_t* strides, float* norms, uint8_t* dropped, const int32_t* seeds,
                       const int64_t* shape, int64_t count, float scale, int bf16, int threads) {
    (bf16 ? forward<uint16_t> : forward<float>)(data, strides, norms, dropped, seeds, shape, count, scale, threads);
}

// data and strides: query, key, value, gradient of out, gradients of query, key and value.
void attention_backward(void* const* data, const int64_t* strides, const float* norms, const uint8_t* dropped,
                        const int64_t* shape, float scale, int bf16, int threads) {
    (bf16 ? backward<uint16_t> : backward<float>)(data, strides, norms, dropped, shape, scale, threads);
}

// Whether heads are shared among threads.
int64_t has_threads() {
#if defined(_OPENMP)
    return 1;
#else
    return 0;
#endif
}

// The numbers noise.uniform(key, count) gives; `out` has room for whole vectors.
void random_uniform(int32_t key, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += LANES)
        store(out + i, uniform(uint32_t(key), (Words)(lane_numbers() + int32_t(i))));
}
}
