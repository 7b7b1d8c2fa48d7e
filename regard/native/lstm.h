// An LSTM that learns: one layer over all times, and its derivative, over rows in order of time (regard/layers/lstm_loop.py).
//
// Gates and hidden states are float32 or bfloat16, cells and all sums float32. Gates in PyTorch's order: input gate, forget
// gate, candidate, output gate. What a thread computes of a row are the same columns in every step.
#pragma once
#include "call.h"

struct Lstm {
    int32_t width, times, rows, threads;  // rows: of the longest time
    const int32_t* rows_at;               // (times,) how many rows are read at each time
    const Matrix* matrix;                 // (gates, width); of the derivative its transpose
    const void* inputs;                   // (tokens, gates) the input's share of the gates
    void *gates, *hiddens;                // (tokens, gates), (tokens, width)
    float* cells;                         // (tokens, width)
    float *hidden, *cell;                 // (rows, width): what a row begins with; of the derivative what it ends with
    float* sums;                          // (rows, gates)
    char* rounded;                        // (rows up to a multiple of 16, padded inputs of the matrix)
    // Of the derivative:
    const void* d_hiddens;                // (tokens, width), or null
    const float* d_cells;                 // (tokens, width), or null
    void* d_gates;                        // (tokens, gates)
    float *d_hidden, *d_cell;             // (rows, width), zeros at first
};

// `to` = rows W^T, the rows as they lie in `from` or, for bfloat16, in `rounded`; all threads come here, and leave together.
inline void lstm_product(const Lstm& call, const void* from, int rows, float* to, int thread, int threads) {
    const Matrix& m = *call.matrix;
    Share mine = share((m.outputs + 15) / 16, thread, threads, 2);
    meet(threads);
    product(m, {(const float*)from, m.inputs, call.rounded, nullptr, rows}, mine.begin, mine.end, NONE, {to, m.outputs, false});
    meet(threads);
}

template <class T>
inline T* rounded_row(const Lstm& call, int row) {
    return (T*)call.rounded + int64_t(row) * call.matrix->padded_inputs;
}

template <class T>
inline void lstm_ahead(const Lstm& call, int thread, int threads) {
    const int width = call.width;
    const bool rounds = call.matrix->kind == BFLOAT16;
    Share mine = share(width, thread, threads, 16);
    const T* inputs = (const T*)call.inputs;
    T *gates = (T*)call.gates, *hiddens = (T*)call.hiddens;
    const float* remembered = call.cell;
    const void* past = call.hidden;
    float* cells = call.cells;
    if (rounds)
        for (int row = 0; row < call.rows_at[0]; row++)
            for (int i = mine.begin; i < mine.end; i++) narrow(call.hidden[int64_t(row) * width + i], rounded_row<T>(call, row)[i]);
    for (int time = 0; time < call.times; time++) {
        const int rows = call.rows_at[time];
        lstm_product(call, past, rows, call.sums, thread, threads);
        for (int row = 0; row < rows; row++) {
            const int64_t at = int64_t(row) * width;
            const float *__restrict sum = call.sums + 4 * at, *__restrict before = remembered + at;
            const T* __restrict input = inputs + 4 * at;
            T *__restrict gate = gates + 4 * at, *__restrict hidden = hiddens + at, *__restrict next = rounded_row<T>(call, row);
            float* __restrict cell = cells + at;
#pragma omp simd
            for (int k = mine.begin; k < mine.end; k++) {
                float i = logistic(wide(input[k]) + sum[k]), f = logistic(wide(input[width + k]) + sum[width + k]);
                float g = fast_tanh(wide(input[2 * width + k]) + sum[2 * width + k]);
                float o = logistic(wide(input[3 * width + k]) + sum[3 * width + k]);
                float c = f * before[k] + i * g;
                narrow(i, gate[k]), narrow(f, gate[width + k]), narrow(g, gate[2 * width + k]), narrow(o, gate[3 * width + k]);
                cell[k] = c, narrow(o * fast_tanh(c), hidden[k]);
            }
            if (rounds) memcpy(next + mine.begin, hidden + mine.begin, size_t(mine.end - mine.begin) * sizeof(T));
        }
        past = hiddens, remembered = cells;
        const int64_t read = int64_t(rows) * width;
        inputs += 4 * read, gates += 4 * read, hiddens += read, cells += read;
    }
    meet(threads);
}

template <class T>
inline void lstm_back(const Lstm& call, int thread, int threads) {
    const int width = call.width;
    const bool rounds = call.matrix->kind == BFLOAT16;
    Share mine = share(width, thread, threads, 16);
    int64_t end = 0;
    for (int time = 0; time < call.times; time++) end += int64_t(call.rows_at[time]) * width;
    for (int time = call.times - 1; time >= 0; time--) {
        const int rows = call.rows_at[time];
        const int64_t begin = end - int64_t(rows) * width;
        const float* remembered = time ? call.cells + begin - int64_t(call.rows_at[time - 1]) * width : call.cell;
        for (int row = 0; row < rows; row++) {
            const int64_t at = begin + int64_t(row) * width, here = int64_t(row) * width;
            const T* __restrict gate = (const T*)call.gates + 4 * at;
            const float *__restrict before = remembered + here, *__restrict cell = call.cells + at;
            const float* __restrict d_after = call.d_hidden + here;
            float* __restrict d_cell = call.d_cell + here;
            T *__restrict d_gate = (T*)call.d_gates + 4 * at, *__restrict next = rounded_row<T>(call, row);
            const bool is_given = call.d_hiddens != nullptr, is_also = call.d_cells != nullptr;
            // Where nothing is given the masked loads still point at memory: at none they would be slow.
            const T* given = is_given ? (const T*)call.d_hiddens + at : gate;
            const float* also = is_also ? call.d_cells + at : cell;
#pragma omp simd
            for (int k = mine.begin; k < mine.end; k++) {
                float i = wide(gate[k]), f = wide(gate[width + k]), g = wide(gate[2 * width + k]), o = wide(gate[3 * width + k]);
                float known = fast_tanh(cell[k]);
                float h = d_after[k] + (is_given ? wide(given[k]) : 0.0f);
                float c = d_cell[k] + (is_also ? also[k] : 0.0f) + h * o * (1.0f - known * known);
                narrow(c * g * (i - i * i), d_gate[k]), narrow(c * before[k] * (f - f * f), d_gate[width + k]);
                narrow(c * i * (1.0f - g * g), d_gate[2 * width + k]), narrow(h * known * (o - o * o), d_gate[3 * width + k]);
                d_cell[k] = c * f;
            }
            if (rounds)
                for (int gate = 0; gate < 4; gate++)
                    memcpy(next + gate * width + mine.begin, d_gate + gate * width + mine.begin, size_t(mine.end - mine.begin) * sizeof(T));
        }
        lstm_product(call, (const T*)call.d_gates + 4 * begin, rows, call.d_hidden, thread, threads);
        end = begin;
    }
}
