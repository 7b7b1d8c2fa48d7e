// C = A B + bias in float32: the products of training, for processors on which those of PyTorch stay far below the peak
// (regard/native/products.py). A and B are read as they lie, transposed or not.
//
// As in Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication": B is laid out in strips of 32
// columns, a block of A in strips of 14 rows, and 14 x 32 sums stay in registers while a strip of each goes by. What a
// row comes to depends neither on the other rows nor on the number of threads.
#pragma once
#include "call.h"

struct Product {
    int32_t rows, columns, depth, threads;
    const float* a;     // (rows, depth) with these strides; fast where one of them is 1
    int64_t a_row, a_depth;
    const float* b;     // (depth, columns), likewise
    int64_t b_depth, b_column;
    const float* bias;  // (columns,), or null
    float* c;           // (rows, columns), contiguous
    float* strips;      // room for B: its depth, up to 1,024, times its columns up to a multiple of 32
};

namespace dense {

const int TALL = 14, WIDE = 32, DEEP = 512, APART = DEEP + 16, BLOCK = TALL * 8;  // a strip of A lies in the first cache, a block in the second

// Strips of B: 32 columns each, zeros beyond the last; (depth, 32).
inline void lay_columns(const Product& call, int begin, int depth, const Share& strips, float* __restrict to) {
    const int first = strips.begin * WIDE, last = std::min(strips.end * WIDE, call.columns);
    const float* __restrict from = call.b + begin * call.b_depth;
    to += int64_t(first) * depth;
    if (last < strips.end * WIDE) memset(to + int64_t(last - first) / WIDE * WIDE * depth, 0, sizeof(float) * depth * WIDE);
    if (call.b_column == 1) {
        for (int k = 0; k < depth; k++)  // all strips at each: what lies together is read together
            for (int column = first; column < last; column += WIDE)
                memcpy(to + int64_t(column - first) * depth + k * WIDE, from + k * call.b_depth + column, sizeof(float) * std::min(WIDE, last - column));
        return;
    }
    for (int column = first; column < last; column += 16) {
        const float* __restrict values = from + column * call.b_column;
        float* __restrict strip = to + int64_t(column - first) / WIDE * WIDE * depth + column % WIDE;
        const int count = std::min(16, last - column);
        for (int k = 0; k < depth; k += 16) {
            const int deep = std::min(16, depth - k);
            if (call.b_depth == 1 && count + deep == 32) {
                Lanes rows[16];
                for (int i = 0; i < 16; i++) rows[i] = load(values + i * call.b_column + k);
                turn(rows);
                for (int i = 0; i < 16; i++) store(strip + (k + i) * WIDE, rows[i]);
            } else {
                for (int i = 0; i < count; i++)
                    for (int j = k; j < k + deep; j++) strip[j * WIDE + i] = values[i * call.b_column + j * call.b_depth];
            }
        }
    }
}

// A block of A in strips, zeros beyond the last row: (14, APART) where the values of a row lie together, else (depth, 14).
inline void lay_rows(const Product& call, int begin, int depth, int above, int below, float* __restrict to) {
    const float* __restrict from = call.a + above * call.a_row + begin * call.a_depth;
    const int rows = below - above, whole = rows / TALL * TALL, padded = (rows + TALL - 1) / TALL * TALL;
    if (call.a_depth == 1) {
        for (int i = 0; i < rows; i++) memcpy(to + i * APART, from + i * call.a_row, sizeof(float) * depth);
        for (int i = rows; i < padded; i++) memset(to + i * APART, 0, sizeof(float) * depth);
        return;
    }
    for (int k = 0; k < depth; k++) {  // all strips at each: what lies together is read together
        const float* __restrict values = from + k * call.a_depth;
        float* __restrict strip = to + k * TALL;
        for (int row = 0; row < whole; row += TALL)
            if (call.a_row == 1 && row + 16 <= rows) store(strip + row * APART, load(values + row));  // the next value overwrites the last two
            else for (int i = 0; i < TALL; i++) strip[row * APART + i] = values[(row + i) * call.a_row];
        for (int i = 0; whole + i < padded; i++) strip[whole * APART + i] = whole + i < rows ? values[(whole + i) * call.a_row] : 0;
    }
}

// 14 rows or what is left of them, times a strip of B, to where they stand in C.
template <int ROW, int DEPTH, int ROWS>  // strides of the strip of A
inline void multiply(const Product& call, const float* __restrict a, const float* __restrict b, int depth, int row, int column, bool first) {
    const int count = std::min(WIDE, call.columns - column);
    float* c = call.c + int64_t(row) * call.columns + column;
    for (int i = 0; i < ROWS; i++)  // it comes from far while the sums are made
        __builtin_prefetch(c + int64_t(i) * call.columns, 1), __builtin_prefetch(c + int64_t(i) * call.columns + count - 1, 1);
    Lanes sums[ROWS][2] = {};  // in registers
    for (int k = 0; k < depth; k++) {
        const Lanes left = load(b + k * WIDE), right = load(b + k * WIDE + 16);
#pragma GCC unroll 14
        for (int i = 0; i < ROWS; i++) {
            const float value = a[i * ROW + k * DEPTH];
            sums[i][0] += value * left, sums[i][1] += value * right;
        }
    }
    float bias[WIDE] = {};
    if (call.bias) memcpy(bias, call.bias + column, sizeof(float) * count);
#pragma GCC unroll 14
    for (int i = 0; i < ROWS; i++, c += call.columns) {
        float begun[WIDE];
        memcpy(begun, first ? bias : c, sizeof(float) * (count < WIDE && !first ? count : WIDE));
        const Lanes left = sums[i][0] + load(begun), right = sums[i][1] + load(begun + 16);
        if (count == WIDE) {
            store(c, left), store(c + 16, right);
        } else {
            store(begun, left), store(begun + 16, right), memcpy(c, begun, sizeof(float) * count);
        }
    }
}

template <int ROW, int DEPTH>
inline void multiply(int rows, const Product& call, const float* a, const float* b, int depth, int row, int column, bool first) {
#define OF(n) case n: return multiply<ROW, DEPTH, n>(call, a, b, depth, row, column, first)
    switch (rows) { OF(14); OF(13); OF(12); OF(11); OF(10); OF(9); OF(8); OF(7); OF(6); OF(5); OF(4); OF(3); OF(2); OF(1); }
#undef OF
}

inline void run(const Product& call, int thread, int threads) {
    const int strips = (call.columns + WIDE - 1) / WIDE;
    const Share laid = share(strips, thread, threads), mine = share(call.rows, thread, threads, TALL);
    float* block = scratch(BLOCK * APART);
    for (int begin = 0; begin < call.depth; begin += DEEP) {
        const int depth = std::min(DEEP, call.depth - begin);
        // Two depths' room, in turn: who lays out the next but one has met all who were at this one.
        float* room = call.strips + int64_t(begin / DEEP % 2) * DEEP * strips * WIDE;
        lay_columns(call, begin, depth, laid, room);
        meet(threads);
        for (int above = mine.begin; above < mine.end; above += BLOCK) {
            const int below = std::min(above + BLOCK, mine.end);
            lay_rows(call, begin, depth, above, below, block);
            for (int strip = 0; strip < strips; strip++)
                for (int row = above; row < below; row += TALL) {
                    const float *a = block + (row - above) * APART, *b = room + int64_t(strip) * WIDE * depth;
                    const int rows = std::min(TALL, below - row), column = strip * WIDE;
                    call.a_depth == 1 ? multiply<APART, 1>(rows, call, a, b, depth, row, column, begin == 0)
                                      : multiply<1, TALL>(rows, call, a, b, depth, row, column, begin == 0);
                }
        }
    }
}

}  // namespace dense
