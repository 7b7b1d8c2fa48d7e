// Scaled dot-product attention of ragged sequences, softmax(Q K^T scale) V, ahead and back (regard/native/attention.py).
//
// A sequence and a head at a time: no padding, no rows and columns to lay out. All sums are float32. A block of queries
// looks at all its keys at once, so that its scores lie in the second cache. Back, scores are computed anew from the
// normalisers (Dao et al. 2022, "FlashAttention", section 3.1); a causal query spends nothing on what follows it.
#pragma once
#include "call.h"

struct Attention {
    int32_t kind, threads;      // of all but the normalisers: FLOAT32 or BFLOAT16
    int32_t sequences, heads, key_heads, width;
    int32_t causal;             // then queries and keys are the same tokens
    float scale;
    uint32_t dropped;           // a weight is dropped where its random 32 bits are below: 0 drops none
    int64_t seed;
    const int64_t *query_begins, *key_begins;  // (sequences + 1,)
    const void *queries, *keys, *values;       // (tokens, heads x width); (tokens, key_heads x width) each
    int64_t query_row, key_row; // from one token to the next
    void* mixed;                // (tokens, heads x width)
    float* normalisers;         // (heads, tokens) log of the sum of all e^score
    // Of the derivative:
    const void* d_mixed;        // (tokens, heads x width)
    void *d_queries, *d_keys, *d_values;       // as queries, keys and values, with the same rows
};

namespace ragged {

const int TALL = 8, WIDE = 32, BLOCK = 64;  // a tile of sums in registers; queries at a time

inline int up(int count, int unit) { return (count + unit - 1) / unit * unit; }

// What one thread works in, in floats: rows of a head lie together, `padded` wide, as float32.
struct Room {
    int padded, keys, wide;  // width up to 16; keys up to 32; from one row of scores to the next
    float *k, *v, *k_across, *v_across, *q, *d, *weights, *slopes, *d_k, *d_v, *rows;

    Room(const Attention& call, int longest) {
        padded = up(call.width, 16), keys = up(longest, WIDE), wide = keys + 16;
        const size_t side = size_t(keys) * padded, block = size_t(BLOCK) * padded, scores = size_t(BLOCK) * wide;
        float* at = scratch(6 * side + 3 * block + 2 * scores + 16);
        at += -(intptr_t(at) / 4) & 15;  // whole lines of the cache: all counts are multiples of 16
        auto take = [&](size_t floats) { float* taken = at; at += floats; return taken; };
        k = take(side), v = take(side), k_across = take(side), v_across = take(side), d_k = take(side), d_v = take(side);
        q = take(block), d = take(block), rows = take(block), weights = take(scores), slopes = take(scores);
    }
};

template <class T>
inline void gather(const T* __restrict from, int64_t row, int count, int width, int padded, float* __restrict to) {
    for (int i = 0; i < count; i++) {
#pragma omp simd
        for (int j = 0; j < width; j++) to[int64_t(i) * padded + j] = wide(from[i * row + j]);
        for (int j = width; j < padded; j++) to[int64_t(i) * padded + j] = 0;
    }
}

template <class T>
inline void scatter(const float* __restrict from, int padded, int count, int width, T* __restrict to, int64_t row) {
    for (int i = 0; i < count; i++)
#pragma omp simd
        for (int j = 0; j < width; j++) narrow(from[int64_t(i) * padded + j], to[i * row + j]);
}

// Rows as columns, in strips of 32: (strip, width, 32), zeros beyond the last.
inline void lay_across(const float* __restrict from, int count, int width, int padded, float* __restrict to) {
    for (int strip = 0; strip < count; strip += WIDE, to += WIDE * width)
        for (int lane = 0; lane < WIDE; lane += 16)
            for (int j = 0; j < width; j += 16) {
                Lanes rows[16];
#pragma GCC unroll 16
                for (int i = 0; i < 16; i++) rows[i] = strip + lane + i < count ? load(from + int64_t(strip + lane + i) * padded + j) : Lanes{};
                turn(rows);
                for (int i = 0; i < std::min(16, width - j); i++) store(to + (j + i) * WIDE + lane, rows[i]);
            }
}

// A tile of A B: one of A's strides is 1; b goes from one row to the next.
template <int ROWS, int LANES, bool ALONG>  // ALONG: the values of a row of A lie together
inline void tile(const float* __restrict a, int64_t stride, const float* __restrict b, int64_t next, int depth, Lanes (&sums)[TALL][2]) {
    Lanes found[ROWS][LANES] = {};
    for (int k = 0; k < depth; k++) {
        Lanes row[LANES];
#pragma GCC unroll 2
        for (int lane = 0; lane < LANES; lane++) row[lane] = load(b + k * next + lane * 16);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            const float value = ALONG ? a[i * stride + k] : a[k * stride + i];
#pragma GCC unroll 2
            for (int lane = 0; lane < LANES; lane++) found[i][lane] += value * row[lane];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 2
        for (int lane = 0; lane < LANES; lane++) sums[i][lane] = found[i][lane];
}

template <bool ALONG>
inline void any_tile(int rows, int lanes, const float* a, int64_t stride, const float* b, int64_t next, int depth, Lanes (&sums)[TALL][2]) {
#define OF(n) case n: lanes == 2 ? tile<n, 2, ALONG>(a, stride, b, next, depth, sums) : tile<n, 1, ALONG>(a, stride, b, next, depth, sums); break
    switch (rows) { OF(8); OF(7); OF(6); OF(5); OF(4); OF(3); OF(2); OF(1); }
#undef OF
}

// scores (queries, keys) = A B, A (queries, padded), B in strips. Of a causal block at `first` only what it may see.
inline void score(const float* a, int queries, const float* strips, int keys, int first, const Attention& call, const Room& room, float* scores) {
    Lanes sums[TALL][2];
    for (int row = 0; row < queries; row += TALL) {
        const int rows = std::min(TALL, queries - row), seen = call.causal ? std::min(keys, first + row + rows) : keys;
        for (int key = 0; key < seen; key += WIDE) {
            const int lanes = seen - key > 16 ? 2 : 1;
            any_tile<true>(rows, lanes, a + row * room.padded, room.padded, strips + int64_t(key) * call.width, WIDE, call.width, sums);
            for (int i = 0; i < rows; i++)
                for (int lane = 0; lane < lanes; lane++) store(scores + (row + i) * room.wide + key + lane * 16, sums[i][lane]);
        }
    }
}

// to (queries, padded) = scores times rows of keys.
inline void mix(const float* scores, int queries, const float* rows_of, int keys, int first, const Attention& call, const Room& room, float* to) {
    Lanes sums[TALL][2];
    for (int row = 0; row < queries; row += TALL) {
        const int rows = std::min(TALL, queries - row), seen = call.causal ? std::min(keys, first + row + rows) : keys;
        for (int column = 0; column < room.padded; column += WIDE) {
            const int lanes = room.padded - column > 16 ? 2 : 1;
            any_tile<true>(rows, lanes, scores + row * room.wide, room.wide, rows_of + column, room.padded, seen, sums);
            for (int i = 0; i < rows; i++)
                for (int lane = 0; lane < lanes; lane++) store(to + (row + i) * room.padded + column + lane * 16, sums[i][lane]);
        }
    }
}

// to (keys, padded) += scores^T times rows of queries.
inline void give_back(const float* scores, int queries, const float* rows_of, int keys, int first, const Attention& call, const Room& room, float* to) {
    Lanes sums[TALL][2];
    const int seen = call.causal ? std::min(keys, first + queries) : keys;
    for (int key = 0; key < seen; key += TALL) {
        const int rows = std::min(TALL, seen - key), from = call.causal ? std::max(0, key - first) / TALL * TALL : 0;
        for (int column = 0; column < room.padded; column += WIDE) {
            const int lanes = room.padded - column > 16 ? 2 : 1;
            any_tile<false>(rows, lanes, scores + from * room.wide + key, room.wide, rows_of + from * room.padded + column, room.padded,
                            queries - from, sums);
            for (int i = 0; i < rows; i++)
                for (int lane = 0; lane < lanes; lane++) {
                    float* place = to + int64_t(key + i) * room.padded + column + lane * 16;
                    store(place, load(place) + sums[i][lane]);
                }
        }
    }
}

// --- weights -------------------------------------------------------------------------------------------------------------

ALWAYS uint32_t stirred(uint32_t x) {  // a mixing of 32 bits with little bias (Wellons 2018, "Prospecting for Hash Functions")
    x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu, x ^= x >> 16;
    return x;
}

struct Chance {  // random bits of a row of weights, the same ahead and back, on any number of threads
    uint32_t first, second;
    Chance(int64_t seed, int64_t row) {
        uint64_t x = uint64_t(seed) + 0x9e3779b97f4a7c15u * uint64_t(row + 1);  // Steele et al. 2014, SplitMix
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u, x = (x ^ (x >> 27)) * 0x94d049bb133111ebu, x ^= x >> 31;
        first = uint32_t(x), second = uint32_t(x >> 32);
    }
    ALWAYS uint32_t at(int key) const { return stirred(stirred(uint32_t(key) + first) + second); }
};

// How many keys a query sees, and how many of them its row of scores holds: what its tile of 8 queries sees, in whole lanes.
struct Seen {
    int keys, held;
    Seen(const Attention& call, int keys_, int first, int row, int queries) {
        keys = call.causal ? std::min(keys_, first + row + 1) : keys_;
        held = up(call.causal ? std::min(keys_, first + std::min(row / TALL * TALL + TALL, queries)) : keys_, 16);
    }
};

// Scores to weights, in place; what the query does not see becomes 0. Returns log of the sum of e^(score scale).
inline float weigh(float* __restrict row, const Seen& seen, float scale) {
    float largest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : largest)
    for (int i = 0; i < seen.held; i++) row[i] = i < seen.keys ? row[i] * scale : -INFINITY, largest = row[i] > largest ? row[i] : largest;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < seen.held; i++) row[i] = fast_exp(row[i] - largest), sum += i < seen.keys ? row[i] : 0;
    const float inverse = 1.0f / sum;
#pragma omp simd
    for (int i = 0; i < seen.held; i++) row[i] = i < seen.keys ? row[i] * inverse : 0;
    return largest + std::log(sum);
}

inline void drop(float* __restrict row, const Seen& seen, const Chance& chance, uint32_t dropped) {
    const float more = 1.0f / (1.0f - dropped / 4294967296.0f);
#pragma omp simd
    for (int i = 0; i < seen.held; i++) row[i] = chance.at(i) < dropped ? 0 : row[i] * more;
}

// Scores to the weights that were used, and the slopes of used weights to those of scores; both in place.
inline void weigh_back(float* __restrict row, float* __restrict slopes, const Seen& seen, float scale, float normaliser) {
    float mean = 0;
#pragma omp simd reduction(+ : mean)
    for (int i = 0; i < seen.held; i++) {
        row[i] = i < seen.keys ? fast_exp(row[i] * scale - normaliser) : 0;
        mean += row[i] * slopes[i];
    }
#pragma omp simd
    for (int i = 0; i < seen.held; i++) slopes[i] = row[i] * (slopes[i] - mean) * scale;
}

inline void weigh_back(float* __restrict row, float* __restrict slopes, const Seen& seen, float scale, float normaliser, const Chance& chance, uint32_t dropped) {
    const float more = 1.0f / (1.0f - dropped / 4294967296.0f);
#pragma omp simd
    for (int i = 0; i < seen.held; i++) slopes[i] = chance.at(i) < dropped ? 0 : slopes[i] * more;
    weigh_back(row, slopes, seen, scale, normaliser);
    drop(row, seen, chance, dropped);
}

// --- a sequence and a head of keys ---------------------------------------------------------------------------------------

template <class T, bool BACK>
inline void look(const Attention& call, const Room& room, int sequence, int key_head) {
    const int64_t begin = call.query_begins[sequence], tokens = call.query_begins[call.sequences], key_begin = call.key_begins[sequence];
    const int queries = int(call.query_begins[sequence + 1] - begin), keys = int(call.key_begins[sequence + 1] - key_begin);
    const int width = call.width, padded = room.padded, group = call.heads / call.key_heads, whole = call.heads * width;
    const int64_t key_at = key_begin * call.key_row + key_head * width;
    gather((const T*)call.keys + key_at, call.key_row, keys, width, padded, room.k);
    gather((const T*)call.values + key_at, call.key_row, keys, width, padded, room.v);
    lay_across(room.k, keys, width, padded, room.k_across);
    if (BACK) {
        lay_across(room.v, keys, width, padded, room.v_across);
        memset(room.d_k, 0, sizeof(float) * size_t(keys) * padded), memset(room.d_v, 0, sizeof(float) * size_t(keys) * padded);
    }
    for (int head = key_head * group; head < (key_head + 1) * group; head++)
        for (int first = 0; first < queries; first += BLOCK) {
            const int count = std::min(BLOCK, queries - first);
            const int64_t at = (begin + first) * call.query_row + head * width, mixed_at = (begin + first) * whole + head * width;
            gather((const T*)call.queries + at, call.query_row, count, width, padded, room.q);
            score(room.q, count, room.k_across, keys, first, call, room, room.weights);
            if (BACK) {
                gather((const T*)call.d_mixed + mixed_at, whole, count, width, padded, room.d);
                score(room.d, count, room.v_across, keys, first, call, room, room.slopes);
            }
            for (int i = 0; i < count; i++) {
                const Seen seen(call, keys, first, i, count);
                const int64_t place = head * tokens + begin + first + i;
                const Chance chance(call.seed, place);
                float *row = room.weights + i * room.wide, *slopes = room.slopes + i * room.wide;
                if (!BACK) {
                    const float normaliser = weigh(row, seen, call.scale);
                    if (call.normalisers) call.normalisers[place] = normaliser;
                    if (call.dropped) drop(row, seen, chance, call.dropped);
                } else if (call.dropped) {
                    weigh_back(row, slopes, seen, call.scale, call.normalisers[place], chance, call.dropped);
                } else {
                    weigh_back(row, slopes, seen, call.scale, call.normalisers[place]);
                }
            }
            if (!BACK) {
                mix(room.weights, count, room.v, keys, first, call, room, room.rows);
                scatter(room.rows, padded, count, width, (T*)call.mixed + mixed_at, whole);
                continue;
            }
            mix(room.slopes, count, room.k, keys, first, call, room, room.rows);
            scatter(room.rows, padded, count, width, (T*)call.d_queries + at, call.query_row);
            give_back(room.slopes, count, room.q, keys, first, call, room, room.d_k);
            give_back(room.weights, count, room.d, keys, first, call, room, room.d_v);
        }
    if (BACK) {
        scatter(room.d_k, padded, keys, width, (T*)call.d_keys + key_at, call.key_row);
        scatter(room.d_v, padded, keys, width, (T*)call.d_values + key_at, call.key_row);
    }
}

template <class T>
inline void run(const Attention& call, int thread, int threads) {
    int longest = 0;
    for (int i = 0; i < call.sequences; i++) longest = std::max(longest, int(call.key_begins[i + 1] - call.key_begins[i]));
    const Room room(call, longest);
    const int64_t parts = int64_t(call.sequences) * call.key_heads;
    for (int64_t part = thread; part < parts; part += threads) {  // of long and short sequences a few heads each
        const int sequence = int(part / call.key_heads), head = int(part % call.key_heads);
        call.d_mixed ? look<T, true>(call, room, sequence, head) : look<T, false>(call, room, sequence, head);
    }
}

}  // namespace ragged
