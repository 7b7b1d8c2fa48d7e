// Recurrent layers (LSTM, GRU), and the attention that was made for them (Bahdanau et al. 2015).
//
// The state of a row is one array: hidden states (and cells) of all layers side by side. caches[0] holds the states that
// the rows go on from, slots which one each row takes; the first operation copies them to caches[1], where they change.
// Tokens are in order of time: the first ones of all rows, then the second ones of those that have one, and so on.
#pragma once
#include "additive.h"

enum Cell : int32_t { LSTM = 0, GRU_RESET_BEFORE = 1 };

// Take up the states; `a` floats of each, from b on, also into the target. c: floats of a state.
inline void recall(const Operation& op, const Call& call, int thread, int threads) {
    Share mine = share(call.states, thread, threads);
    for (int row = mine.begin; row < mine.end; row++) {
        float* to = call.caches[1] + int64_t(row) * op.c;
        if (call.slots) memcpy(to, call.caches[0] + int64_t(call.slots[row]) * op.c, size_t(op.c) * 4);
        else memset(to, 0, size_t(op.c) * 4);  // nothing has been read
        if (op.a) memcpy(call.buffers[op.target] + int64_t(row) * op.a, to + op.b, size_t(op.a) * 4);
    }
}

// y += x W^T, for some rows; all threads come here, and leave together.
inline void add_product(const Matrix& m, const Call& call, const float* from, int64_t stride, int rows, float* to, int64_t to_stride,
                        int thread, int threads) {
    Rows x = rounded(m, call, from, stride, rows, thread, threads);
    Share mine = share((m.outputs + 15) / 16, thread, threads, 2);
    product(m, x, mine.begin, mine.end, NONE, {to, to_stride, true});
    meet(threads);
}

// One layer over all times. source: what the inputs give to the gates (tokens, a); target: hidden states (tokens, b). b: width;
// c: floats of a state; d: where this layer's begins in it; e: the kind of cell; p: the recurrent matrix; q: of a GRU that
// resets before the product the part of it that makes the candidate; r: the buffer of what was reset, as an integer.
inline void recur(const Operation& op, const Call& call, int thread, int threads) {
    const int width = op.b;
    float *gates = call.buffers[op.source], *hiddens = call.buffers[op.target], *states = call.caches[1] + op.d;
    Share mine = share(width, thread, threads, 16);
    for (int time = 0; time < call.times; time++) {
        const int rows = call.rows_at[time];
        add_product(*(const Matrix*)op.p, call, states, op.c, rows, gates, op.a, thread, threads);
        if (op.e == GRU_RESET_BEFORE) {
            float* reset = call.buffers[integer(op.r)];
            for (int row = 0; row < rows; row++) {
                const float *gate = gates + int64_t(row) * op.a, *past = states + int64_t(row) * op.c;
#pragma omp simd
                for (int i = mine.begin; i < mine.end; i++) reset[int64_t(row) * width + i] = logistic(gate[i]) * past[i];
            }
            meet(threads);
            add_product(*(const Matrix*)op.q, call, reset, width, rows, gates + 2 * width, op.a, thread, threads);
        }
        for (int row = 0; row < rows; row++) {
            const float* gate = gates + int64_t(row) * op.a;
            float *hidden = states + int64_t(row) * op.c, *cell = hidden + width, *found = hiddens + int64_t(row) * width;
            if (op.e == LSTM) {  // gates: input, forget, candidate, output
#pragma omp simd
                for (int i = mine.begin; i < mine.end; i++) {
                    cell[i] = logistic(gate[width + i]) * cell[i] + logistic(gate[i]) * fast_tanh(gate[2 * width + i]);
                    found[i] = hidden[i] = logistic(gate[3 * width + i]) * fast_tanh(cell[i]);
                }
            } else {  // reset, update, candidate
#pragma omp simd
                for (int i = mine.begin; i < mine.end; i++)
                    found[i] = hidden[i] += logistic(gate[width + i]) * (fast_tanh(gate[2 * width + i]) - hidden[i]);
            }
        }
        meet(threads);
        gates += int64_t(rows) * op.a, hiddens += int64_t(rows) * width;
    }
}

// score = v . tanh(query + key), over the row's source; its values, weighted. source: queries (rows, a); target (rows, b).
// a: width of the network; b: width of the values; c, d: the buffers of keys and of values; p: v.
inline void additive(const Operation& op, const Call& call, int thread, int threads) {
    Share mine = share(call.rows, thread, threads);
    const float* vector = (const float*)op.p;
    for (int row = mine.begin; row < mine.end; row++) {
        const int family = call.families[row], first = call.sources[family], tokens = call.sources[family + 1] - first;
        const float *query = call.buffers[op.source] + int64_t(row) * op.a, *keys = call.buffers[op.c] + int64_t(first) * op.a;
        look_from(query, keys, call.buffers[op.d] + int64_t(first) * op.b, vector, tokens, op.a, op.b, scratch(size_t(tokens)),
                  call.buffers[op.target] + int64_t(row) * op.b);
    }
}

// The larger one of each pair of neighbours. a: width of the target.
inline void maxout(const Operation& op, const Call& call, int thread, int threads) {
    Share mine = share(int64_t(call.rows) * op.a, thread, threads);
    const float* x = call.buffers[op.source];
    float* y = call.buffers[op.target];
    for (int64_t i = mine.begin; i < mine.end; i++) y[i] = x[2 * i] > x[2 * i + 1] || x[2 * i] != x[2 * i] ? x[2 * i] : x[2 * i + 1];
}
