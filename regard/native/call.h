// What an operation is told: its own fields, the call it runs in, and which share of the work is its thread's.
#pragma once
#include <algorithm>
#include <vector>
#include "matrix.h"

enum Code : int32_t {
    EMBED = 0, NORM = 1, LINEAR = 2, ROTATE = 3, REMEMBER = 4, ATTEND = 5, MULTIPLY = 6, TOP = 7, PACK = 8,
    RECALL = 9, RECUR = 10, ADDITIVE = 11, MAXOUT = 12
};
enum Keys : int32_t {  // whose keys are looked at; "rounded": in bfloat16 where that is faster
    OF_CACHE = 0, OF_MEMORY = 1, OF_ROWS = 2, OF_ROUNDED_ROWS = 3, OF_PACKED_MEMORY = 4, OF_ROUNDED_MEMORY = 5
};

struct Operation {  // what a..e and p..r mean is said at each operation
    int32_t code, source, target, a, b, c, d, e;
    float f, g;
    const void *p, *q, *r;
};

struct Call {
    int32_t rows, threads;
    float* const* buffers;
    const int64_t* tokens;      // (rows,)
    const int32_t* positions;   // (rows,) place of each row in its text
    // The cache: one (slots, room, keys and values side by side) a layer. A row writes into its own slot; where the
    // beams it comes from wrote is in the table, so that no cache is ever copied.
    float* const* caches;
    const int32_t* slots;       // (rows,)
    int32_t* table;             // (rows, table_stride) slot of each position, or null: always the row's own
    int32_t table_stride, room;
    const int32_t* families;    // (rows,) which source a row belongs to
    const int32_t* sources;     // where each source begins in the memories, and after it where it ends
    const int32_t* begins;      // (rows,) first and last + 1 row of each row's own sequence
    const int32_t* ends;
    char* rounded;              // room for rows as int8 or bfloat16
    float* row_scales;
    const int64_t* forbidden;   // tokens that TOP does not name
    int32_t forbidden_count, top;
    float* top_values;          // (rows, top) logits, the largest first
    int64_t* top_tokens;
    float* normalisers;         // (rows,) log of the sum of all e^logit
    const int32_t* rows_at;     // (times,) how many rows of a recurrent model are read at each time
    int32_t times, states;      // and how many have a state
};

struct Share { int begin, end; };

inline Share share(int64_t count, int thread, int threads, int unit = 1) {
    int64_t units = (count + unit - 1) / unit;
    int64_t begin = units * thread / threads * unit, end = units * (thread + 1) / threads * unit;
    return {int(std::min(begin, count)), int(std::min(end, count))};
}

inline void meet(int threads) {
    if (threads > 1) {
#if defined(_OPENMP)
#pragma omp barrier
#endif
    }
}

inline float* scratch(size_t floats) {  // memory of this thread, kept
    static thread_local std::vector<float> memory;
    if (memory.size() < floats) memory.resize(floats);
    return memory.data();
}

inline int64_t integer(const void* field) { return (int64_t)(intptr_t)field; }

// Rows as the matrix wants them; all threads come here, and leave together.
inline Rows rounded(const Matrix& m, const Call& call, const float* values, int64_t stride, int rows, int thread, int threads) {
    Rows x = {values, stride, call.rounded, call.row_scales, rows};
    if (m.kind == FLOAT32) return x;
    Share mine = share(rows, thread, threads);
    for (int row = mine.begin; row < mine.end; row++) round_row(m, x, row);
    meet(threads);
    return x;
}
