// The smoothed cross-entropy of logits and its gradient, row by row (regard/training/objectives.py).
#pragma once
#include "call.h"

struct Objective {
    int32_t kind, threads;  // of logits and gradient: FLOAT32 or BFLOAT16
    int64_t tokens, vocabulary;
    const void* logits;     // (tokens, vocabulary)
    const int64_t* answers; // (tokens,)
    void* gradient;         // (tokens, vocabulary), or null
    float smoothing;
    float *right, *spread;  // (tokens,) -log P of the answer, and the mean of -log P of all words
};

template <class T>
inline void objective(const Objective& call, int thread, int threads) {
    const int64_t vocabulary = call.vocabulary;
    Share mine = share(call.tokens, thread, threads);
    float* powers = scratch(size_t(vocabulary));
    const float each = 1.0f / call.tokens, even = call.smoothing / vocabulary * each;
    for (int64_t row = mine.begin; row < mine.end; row++) {
        const T* __restrict logits = (const T*)call.logits + row * vocabulary;
        const int64_t answer = call.answers[row];
        float largest = -INFINITY, sum = 0, total = 0;
#pragma omp simd reduction(max : largest)
        for (int64_t i = 0; i < vocabulary; i++) largest = wide(logits[i]) > largest ? wide(logits[i]) : largest;
#pragma omp simd reduction(+ : sum, total)
        for (int64_t i = 0; i < vocabulary; i++) {
            float above = wide(logits[i]) - largest;
            powers[i] = fast_exp(above), sum += powers[i], total += above;
        }
        const float normaliser = std::log(sum);
        call.right[row] = normaliser - (wide(logits[answer]) - largest);
        call.spread[row] = normaliser - total / vocabulary;
        if (!call.gradient) continue;
        T* __restrict gradient = (T*)call.gradient + row * vocabulary;
        const float share = each / sum;
#pragma omp simd
        for (int64_t i = 0; i < vocabulary; i++) narrow(powers[i] * share - even, gradient[i]);
        narrow(powers[answer] * share - even - (1.0f - call.smoothing) * each, gradient[answer]);
    }
}
