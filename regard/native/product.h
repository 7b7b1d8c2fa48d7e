// C = A B + bias: the products of training, for processors on which those of PyTorch stay far below the peak
// (regard/native/products.py). A and B are read as they lie, transposed or not.
//
// As in Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication": B is laid out in strips of 32
// columns, a block of A in strips of 14 rows, and 14 x 32 sums stay in registers while a strip of each goes by. What a
// row comes to depends neither on the other rows nor on the number of threads.
//
// A strip is made of words of 32 bits: a float32, or two values of bfloat16 that follow each other in depth, which the
// processor multiplies and adds in float32 at once. What the two ways do differently stands in `Whole` and `Halves`.
#pragma once
#include "call.h"

struct Product {
    int32_t rows, columns, depth, threads;
    int32_t a_kind, b_kind, c_kind;  // all FLOAT32; or BFLOAT16, B and C either: then it is multiplied in bfloat16
    const void* a;      // (rows, depth) with these strides; fast where one of them is 1
    int64_t a_row, a_depth;
    const void* b;      // (depth, columns), likewise
    int64_t b_depth, b_column;
    const float* bias;  // (columns,), or null
    void* c;            // (rows, columns), contiguous; BFLOAT16 only for a depth of at most 1,024
    float* strips;      // room for B: its words, up to 1,024, times its columns up to a multiple of 32
};

namespace dense {

// A strip of A lies in the first cache, a block in the second; DEEP in words.
const int TALL = 14, WIDE = 32, DEEP = 512, APART = DEEP + 16, BLOCK = TALL * 8, AHEAD = 8;

struct Whole {
    static const int VALUES = 1;
    static ALWAYS float word(float value, float) { return value; }
    static ALWAYS Lanes add(Lanes sums, float word, Lanes words) { return sums + word * words; }
};

ALWAYS uint32_t half(uint16_t x) { return x; }
ALWAYS uint32_t half(float x) { return to_bfloat16(x); }

struct Halves {
    static const int VALUES = 2;
    template <class T>
    static ALWAYS float word(T first, T second) {
        const uint32_t bits = half(first) | half(second) << 16;
        float word;
        memcpy(&word, &bits, 4);
        return word;
    }
    static ALWAYS Lanes add(Lanes sums, float word, Lanes words) {
        int32_t two;
        memcpy(&two, &word, 4);
        return add_pairs(sums, two, words);
    }
};

// `count` words of one row or column, whose values lie together; what is beyond the last value is 0.
template <class K, class T>
inline void lay_along(const T* __restrict from, int count, int values, float* __restrict to) {
    values = std::min(values, count * K::VALUES);
    if (sizeof(T) * K::VALUES == sizeof(float)) {
        memcpy(to, from, sizeof(T) * values);
    } else {
        uint16_t* __restrict halves = (uint16_t*)to;
#pragma omp simd
        for (int k = 0; k < values; k++) halves[k] = uint16_t(half(from[k]));
    }
    if (values % K::VALUES) ((uint16_t*)to)[values] = 0;
}

template <class K, class T>
ALWAYS void lay_side_by_side(const T* __restrict first, const T* __restrict second, int count, float* __restrict to) {
    if (second) {
#pragma omp simd
        for (int i = 0; i < count; i++) to[i] = K::word(first[i], second[i]);
    } else {
#pragma omp simd
        for (int i = 0; i < count; i++) to[i] = K::word(first[i], T(0));
    }
}

// One word of each of up to WHOLE rows or columns that lie side by side, or `apart`; `second` is null beyond the depth.
template <class K, int WHOLE, class T>
ALWAYS void lay_across(const T* first, const T* second, int64_t apart, int count, float* to) {
    if (apart != 1) {
        for (int i = 0; i < count; i++) to[i] = K::word(first[i * apart], second ? second[i * apart] : T(0));
    } else if (count >= WHOLE) {
        lay_side_by_side<K>(first, second, WHOLE, to);  // a number that the compiler knows
    } else {
        lay_side_by_side<K>(first, second, count, to);
    }
}

// Strips of B: 32 columns each, zeros beyond the last; (depth, 32).
template <class K, class T>
inline void lay_columns(const Product& call, int begin, int depth, const Share& strips, float* __restrict to) {
    const int first = strips.begin * WIDE, last = std::min(strips.end * WIDE, call.columns), values = call.depth - begin * K::VALUES;
    const T* from = (const T*)call.b + int64_t(begin) * K::VALUES * call.b_depth;
    to += int64_t(first) * depth;
    if (last < strips.end * WIDE) memset(to + int64_t(last - first) / WIDE * WIDE * depth, 0, sizeof(float) * depth * WIDE);
    if (call.b_depth != 1) {
        for (int k = 0; k < depth; k++)  // all strips at each: what lies together is read together
            for (int column = first; column < last; column += WIDE) {
                const T* one = from + int64_t(k) * K::VALUES * call.b_depth + column * call.b_column;
                const T* other = K::VALUES * k + 1 < values ? one + call.b_depth : nullptr;
                lay_across<K, WIDE>(one, other, call.b_column, std::min(WIDE, last - column), to + int64_t(column - first) * depth + k * WIDE);
            }
        return;
    }
    for (int column = first; column < last; column += 16) {
        float* __restrict strip = to + int64_t(column - first) / WIDE * WIDE * depth + column % WIDE;
        const int count = std::min(16, last - column);
        for (int k = 0; k < depth; k += 16) {
            const int deep = std::min(16, depth - k);
            float words[16][16] = {};
            for (int i = 0; i < count; i++) lay_along<K>(from + (column + i) * call.b_column + k * K::VALUES, deep, values - k * K::VALUES, words[i]);
            Lanes rows[16];
            for (int i = 0; i < 16; i++) rows[i] = load(words[i]);
            turn(rows);
            for (int j = 0; j < deep; j++) {
                if (count == 16) store(strip + (k + j) * WIDE, rows[j]);
                else for (int i = 0; i < count; i++) strip[(k + j) * WIDE + i] = rows[j][i];
            }
        }
    }
}

// A block of A in strips: (14, APART) where the values of a row lie together, else (depth, 14).
template <class K, class T>
inline void lay_rows(const Product& call, int begin, int depth, int above, int below, float* __restrict to) {
    const int rows = below - above, values = call.depth - begin * K::VALUES;
    const T* from = (const T*)call.a + above * call.a_row + int64_t(begin) * K::VALUES * call.a_depth;
    if (call.a_depth == 1) {
        for (int i = 0; i < rows; i++) lay_along<K>(from + i * call.a_row, depth, values, to + i * APART);
        return;
    }
    for (int k = 0; k < depth; k++) {  // all strips at each: what lies together is read together
        const T* one = from + int64_t(k) * K::VALUES * call.a_depth;
        const bool both = K::VALUES * k + 1 < values;
        for (int value = 0; value < K::VALUES; value++)  // rows may lie a page apart, and none is fetched ahead from the next
            for (int i = 0; i < rows; i += 64 / int(sizeof(T))) __builtin_prefetch(one + (int64_t(AHEAD) * K::VALUES + value) * call.a_depth + i);
        for (int row = 0; row < rows; row += TALL, one += TALL * call.a_row)
            lay_across<K, TALL>(one, both ? one + call.a_depth : nullptr, call.a_row, std::min(TALL, rows - row), to + k * TALL + row * APART);
    }
}

// 14 rows or what is left of them, times a strip of B: to `c`, from one row to the next `stride`, up to `count` columns.
template <class K, int ROW, int DEPTH, int ROWS>  // strides of the strip of A
inline void multiply(const float* __restrict a, const float* __restrict b, int depth, float* c, int64_t stride, int count, const float* bias) {
    Lanes sums[ROWS][2] = {};  // in registers
    for (int k = 0; k < depth; k++) {
        const Lanes left = load(b + k * WIDE), right = load(b + k * WIDE + 16);
#pragma GCC unroll 14
        for (int i = 0; i < ROWS; i++) {
            const float word = a[i * ROW + k * DEPTH];
            sums[i][0] = K::add(sums[i][0], word, left), sums[i][1] = K::add(sums[i][1], word, right);
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < ROWS; i++, c += stride) {
        float begun[WIDE];
        memcpy(begun, bias ? bias : c, sizeof(float) * (bias || count == WIDE ? WIDE : count));
        const Lanes left = sums[i][0] + load(begun), right = sums[i][1] + load(begun + 16);
        if (count == WIDE) {
            store(c, left), store(c + 16, right);
        } else {
            store(begun, left), store(begun + 16, right), memcpy(c, begun, sizeof(float) * count);
        }
    }
}

template <class K, int ROW, int DEPTH>
inline void multiply(int rows, const float* a, const float* b, int depth, float* c, int64_t stride, int count, const float* bias) {
#define OF(n) case n: return multiply<K, ROW, DEPTH, n>(a, b, depth, c, stride, count, bias)
    switch (rows) { OF(14); OF(13); OF(12); OF(11); OF(10); OF(9); OF(8); OF(7); OF(6); OF(5); OF(4); OF(3); OF(2); OF(1); }
#undef OF
}

template <class K, class A, class B, class C>
inline void run(const Product& call, int thread, int threads) {
    const int strips = (call.columns + WIDE - 1) / WIDE, words = (call.depth + K::VALUES - 1) / K::VALUES;
    const Share laid = share(strips, thread, threads), mine = share(call.rows, thread, threads, TALL);
    float *block = scratch(BLOCK * APART), tile[TALL * WIDE], bias[WIDE] = {};
    for (int begin = 0; begin < words; begin += DEEP) {
        const int depth = std::min(DEEP, words - begin);
        // Two depths' room, in turn: who lays out the next but one has met all who were at this one.
        float* room = call.strips + int64_t(begin / DEEP % 2) * DEEP * strips * WIDE;
        lay_columns<K, B>(call, begin, depth, laid, room);
        meet(threads);
        for (int above = mine.begin; above < mine.end; above += BLOCK) {
            const int below = std::min(above + BLOCK, mine.end);
            lay_rows<K, A>(call, begin, depth, above, below, block);
            for (int strip = 0; strip < strips; strip++) {
                const int column = strip * WIDE, count = std::min(WIDE, call.columns - column);
                const float *b = room + int64_t(column) * depth, *first = begin ? nullptr : bias;
                if (call.bias) memcpy(bias, call.bias + column, sizeof(float) * count);
                for (int row = above; row < below; row += TALL) {
                    const int rows = std::min(TALL, below - row);
                    const float* a = block + (row - above) * APART;
                    C* c = (C*)call.c + int64_t(row) * call.columns + column;
                    for (int i = 0; i < rows; i++)  // it comes from far while the sums are made
                        __builtin_prefetch(c + int64_t(i) * call.columns, 1), __builtin_prefetch(c + int64_t(i) * call.columns + count - 1, 1);
                    const bool direct = sizeof(C) == sizeof(float);
                    float* to = direct ? (float*)c : tile;
                    const int64_t stride = direct ? call.columns : WIDE;
                    call.a_depth == 1 ? multiply<K, APART, 1>(rows, a, b, depth, to, stride, direct ? count : WIDE, first)
                                      : multiply<K, 1, TALL>(rows, a, b, depth, to, stride, direct ? count : WIDE, first);
                    if (direct) continue;
                    for (int i = 0; i < rows; i++)
#pragma omp simd
                        for (int j = 0; j < count; j++) narrow(tile[i * WIDE + j], c[int64_t(i) * call.columns + j]);
                }
            }
        }
    }
}

inline void run(const Product& call, int thread, int threads) {
    if (call.a_kind == FLOAT32) return run<Whole, float, float, float>(call, thread, threads);
    const bool from_half = call.b_kind == BFLOAT16, to_half = call.c_kind == BFLOAT16;
    if (from_half) return to_half ? run<Halves, uint16_t, uint16_t, uint16_t>(call, thread, threads) : run<Halves, uint16_t, uint16_t, float>(call, thread, threads);
    to_half ? run<Halves, uint16_t, float, uint16_t>(call, thread, threads) : run<Halves, uint16_t, float, float>(call, thread, threads);
}

}  // namespace dense
