// GELU in its form with tanh, and its derivative, number by number (regard/layers/gelu.py).
#pragma once
#include "call.h"

struct Gelu {
    int32_t kind, threads;  // of all arrays: FLOAT32 or BFLOAT16
    int64_t count;
    const void *x, *d_y;    // d_y: or null, then y is asked for
    void* found;            // y, or d_x
};

template <class T, bool BACK>
inline void gelu(const Gelu& call, int thread, int threads) {
    Share mine = share(call.count, thread, threads, 64);
    const T *__restrict x = (const T*)call.x, *__restrict d_y = (const T*)call.d_y;
    T* __restrict found = (T*)call.found;
#pragma omp simd
    for (int i = mine.begin; i < mine.end; i++) {
        const float v = wide(x[i]), square = v * v;
        const float passes = logistic(1.59576912f * v * (1.0f + 0.044715f * square));  // (1 + tanh(u)) / 2 is logistic(2 u)
        const float slope = 1.59576912f * passes * (1.0f - passes) * (1.0f + 0.134145f * square);
        narrow(BACK ? wide(d_y[i]) * (passes + v * slope) : v * passes, found[i]);
    }
}

template <class T>
inline void gelu(const Gelu& call, int thread, int threads) {
    call.d_y ? gelu<T, true>(call, thread, threads) : gelu<T, false>(call, thread, threads);
}
