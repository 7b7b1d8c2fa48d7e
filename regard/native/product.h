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
    float* strips;      // room for B: its depth times its columns up to a multiple of 32
};

namespace dense {

const int TALL = 14, WIDE = 32, DEEP = 512, APART = DEEP + 16, BLOCK = TALL * 8;  // a strip of A lies in the first cache, a block in the second

// A strip of B: 32 columns from `column` on, zeros beyond the last; (depth, 32).
inline void lay_columns(const Product& call, int begin, int depth, int column, float* __restrict to) {
    const int count = std::min(WIDE, call.columns - column);
    const float* __restrict from = call.b + begin * call.b_depth + column * call.b_column;
    if (count < WIDE) memset(to, 0, sizeof(float) * depth * WIDE);
    if (call.b_column == 1) {
        for (int k = 0; k < depth; k++) memcpy(to + k * WIDE, from + k * call.b_depth, sizeof(float) * count);
        return;
    }
    for (int at = 0; at < depth; at += 16)  // 16 values of a row at a time: whole lines of memory are read
        for (int i = 0; i < count; i++)
            for (int k = at; k < std::min(at + 16, depth); k++) to[k * WIDE + i] = from[i * call.b_column + k * call.b_depth];
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
            for (int i = 0; i < TALL; i++) strip[row * APART + i] = values[(row + i) * call.a_row];
        for (int i = 0; whole + i < padded; i++) strip[whole * APART + i] = whole + i < rows ? values[(whole + i) * call.a_row] : 0;
    }
}

template <int ROW, int DEPTH>  // strides of the strip of A
inline void multiply(const float* __restrict a, const float* __restrict b, int depth, Lanes (&sums)[TALL][2]) {
    Lanes found[TALL][2] = {};  // in registers: no pointer to it leaves the loop
    for (int k = 0; k < depth; k++) {
        const Lanes left = load(b + k * WIDE), right = load(b + k * WIDE + 16);
#pragma GCC unroll 14
        for (int i = 0; i < TALL; i++) {
            const float value = a[i * ROW + k * DEPTH];
            found[i][0] += value * left, found[i][1] += value * right;
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < TALL; i++) sums[i][0] = found[i][0], sums[i][1] = found[i][1];
}

inline void add(const Product& call, const Lanes (&sums)[TALL][2], int row, int rows, int column, bool first) {
    const int count = std::min(WIDE, call.columns - column);
    float bias[WIDE] = {};
    if (call.bias) memcpy(bias, call.bias + column, sizeof(float) * count);
    for (int i = 0; i < rows; i++) {
        float* c = call.c + int64_t(row + i) * call.columns + column;
        if (count < WIDE) {
            for (int j = 0; j < count; j++) c[j] = sums[i][j / 16][j % 16] + (first ? bias[j] : c[j]);
            continue;
        }
        const float* begun = first ? bias : c;
        const Lanes left = load(begun), right = load(begun + 16);
        store(c, sums[i][0] + left), store(c + 16, sums[i][1] + right);
    }
}

inline void run(const Product& call, int thread, int threads) {
    const int strips = (call.columns + WIDE - 1) / WIDE;
    const Share laid = share(strips, thread, threads), mine = share(call.rows, thread, threads, TALL);
    auto strip_at = [&](int begin, int depth, int strip) { return call.strips + int64_t(begin) * strips * WIDE + int64_t(strip) * WIDE * depth; };
    for (int begin = 0; begin < call.depth; begin += DEEP) {
        const int depth = std::min(DEEP, call.depth - begin);
        for (int strip = laid.begin; strip < laid.end; strip++)
            lay_columns(call, begin, depth, strip * WIDE, strip_at(begin, depth, strip));
    }
    meet(threads);
    float* block = scratch(BLOCK * APART);
    Lanes sums[TALL][2];
    for (int begin = 0; begin < call.depth; begin += DEEP) {
        const int depth = std::min(DEEP, call.depth - begin);
        for (int above = mine.begin; above < mine.end; above += BLOCK) {
            const int below = std::min(above + BLOCK, mine.end);
            lay_rows(call, begin, depth, above, below, block);
            for (int strip = 0; strip < strips; strip++)
                for (int row = above; row < below; row += TALL) {
                    const float *a = block + (row - above) * APART, *b = strip_at(begin, depth, strip);
                    call.a_depth == 1 ? multiply<APART, 1>(a, b, depth, sums) : multiply<1, TALL>(a, b, depth, sums);
                    add(call, sums, row, std::min(TALL, below - row), strip * WIDE, begin == 0);
                }
        }
    }
}

}  // namespace dense
