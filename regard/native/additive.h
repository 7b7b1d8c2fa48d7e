// Additive attention of one step of a decoder that learns, and its derivative (regard/layers/attentive_loop.py).
//
// Queries, keys and values are float32 or bfloat16, all sums float32. A row looks at its own source only; there is no padding.
#pragma once
#include "call.h"

struct Look {
    int32_t kind, rows, threads, width, value_width;
    int32_t longest;              // source: from one row of weights to the next
    const int32_t *begins, *ends; // (rows,) of each row's source
    const void *queries;          // (rows, width)
    const void *keys, *values;    // (source tokens, width), (source tokens, value_width)
    const float* vector;          // (width,)
    float* weights;               // (rows, longest)
    void* mixed;                  // (rows, value_width)
    // Of the derivative:
    const void* d_mixed;          // (rows, value_width)
    void* d_queries;              // (rows, width)
    float* d_keys;                // (source tokens, width), added to
    float* d_vectors;             // (threads, width), added to
    // Of the values, which all steps saw, when all are known; then mixed values and weights are those of all tokens:
    const int32_t* rows_at;       // (times,) how many rows are read at each time
    int32_t times;
    float* d_values;              // (source tokens, value_width), added to
};

// Of one query: how much of each key is seen, and all of it together.
template <class T>
inline void look_from(const T* __restrict query, const T* keys, const T* values, const float* vector, int tokens, int width, int value_width,
                      float* weights, float* __restrict mixed) {
    float largest = -INFINITY, sum = 0;
    for (int s = 0; s < tokens; s++) {
        const T* __restrict key = keys + int64_t(s) * width;
        float score = 0;
#pragma omp simd reduction(+ : score)
        for (int i = 0; i < width; i++) score += vector[i] * fast_tanh(wide(query[i]) + wide(key[i]));
        weights[s] = score, largest = score > largest ? score : largest;
    }
    for (int s = 0; s < tokens; s++) weights[s] = fast_exp(weights[s] - largest), sum += weights[s];
    memset(mixed, 0, size_t(value_width) * 4);
    for (int s = 0; s < tokens; s++) {
        const T* __restrict value = values + int64_t(s) * value_width;
        const float weight = weights[s] /= sum;
#pragma omp simd
        for (int i = 0; i < value_width; i++) mixed[i] += weight * wide(value[i]);
    }
}

template <class T>
inline void look(const Look& call, int thread, int threads) {
    const int width = call.width, values = call.value_width;
    Share mine = share(call.rows, thread, threads);
    float* sums = scratch(size_t(values));
    for (int row = mine.begin; row < mine.end; row++) {
        const int64_t begin = call.begins[row];
        look_from((const T*)call.queries + int64_t(row) * width, (const T*)call.keys + begin * width, (const T*)call.values + begin * values,
                  call.vector, int(call.ends[row] - begin), width, values, call.weights + int64_t(row) * call.longest, sums);
        T* mixed = (T*)call.mixed + int64_t(row) * values;
        for (int i = 0; i < values; i++) narrow(sums[i], mixed[i]);
    }
}

template <class T>
inline void look_back(const Look& call, int thread, int threads) {
    const int width = call.width, values = call.value_width;
    Share mine = share(call.rows, thread, threads);
    float *slopes = scratch(size_t(call.longest + width)), *d_query = slopes + call.longest;
    float* d_vector = call.d_vectors + int64_t(thread) * width;
    for (int row = mine.begin; row < mine.end; row++) {
        const int begin = call.begins[row], tokens = call.ends[row] - begin;
        const T* __restrict query = (const T*)call.queries + int64_t(row) * width;
        const T* __restrict d_mixed = (const T*)call.d_mixed + int64_t(row) * values;
        const float* weights = call.weights + int64_t(row) * call.longest;
        float mean = 0;
        for (int s = 0; s < tokens; s++) {
            const T* __restrict value = (const T*)call.values + int64_t(begin + s) * values;
            float slope = 0;
#pragma omp simd reduction(+ : slope)
            for (int i = 0; i < values; i++) slope += wide(d_mixed[i]) * wide(value[i]);
            slopes[s] = slope, mean += weights[s] * slope;
        }
        memset(d_query, 0, size_t(width) * 4);
        for (int s = 0; s < tokens; s++) {
            const T* __restrict key = (const T*)call.keys + int64_t(begin + s) * width;
            float* __restrict d_key = call.d_keys + int64_t(begin + s) * width;
            const float d_score = weights[s] * (slopes[s] - mean);
#pragma omp simd
            for (int i = 0; i < width; i++) {
                float energy = fast_tanh(wide(query[i]) + wide(key[i]));
                float d_energy = d_score * call.vector[i] * (1.0f - energy * energy);
                d_vector[i] += d_score * energy, d_query[i] += d_energy, d_key[i] += d_energy;
            }
        }
        T* found = (T*)call.d_queries + int64_t(row) * width;
        for (int i = 0; i < width; i++) narrow(d_query[i], found[i]);
    }
}

template <class T>
inline void look_back_at_values(const Look& call, int thread, int threads) {
    const int values = call.value_width;
    Share mine = share(call.rows, thread, threads);
    for (int row = mine.begin; row < mine.end; row++) {
        const int begin = call.begins[row], tokens = call.ends[row] - begin;
        int64_t token = row;
        for (int time = 0; time < call.times && call.rows_at[time] > row; token += call.rows_at[time++]) {
            const T* __restrict d_mixed = (const T*)call.d_mixed + token * values;
            for (int s = 0; s < tokens; s++) {
                float* __restrict d_value = call.d_values + int64_t(begin + s) * values;
                const float weight = call.weights[token * call.longest + s];
#pragma omp simd
                for (int i = 0; i < values; i++) d_value[i] += weight * wide(d_mixed[i]);
            }
        }
    }
}
