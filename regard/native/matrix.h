// Prepared weights, and the product of rows with them: y = f(x W^T + b).
//
// A matrix lies in blocks of 16 outputs. Within a block, 64 bytes of weights of one output group after the other, so
// that a product reads memory front to back and never needs a sum across lanes:
//   float32  [out / 16][in]     [16 outputs]        x 1 input
//   bfloat16 [out / 16][in / 32][16][16 outputs][2 inputs]
//   int8     [out / 16][in / 64][16][16 outputs][4 inputs], one scale an output; x is rounded to int8 row by row.
// The last two are the tiles of Intel's AMX; the same layout serves AVX-512 and plain loops.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) || defined(__AMX_INT8__)
#include <immintrin.h>
#endif

typedef float Lanes __attribute__((vector_size(64)));       // 16 outputs side by side
typedef int32_t IntLanes __attribute__((vector_size(64)));
typedef float LooseLanes __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t LooseIntLanes __attribute__((vector_size(64), aligned(4), may_alias));

inline Lanes load(const float* from) { return *(const LooseLanes*)from; }
inline void store(float* to, Lanes x) { *(LooseLanes*)to = x; }

template <int FIRST>  // 0: the lower halves of two, taking turns; 8: the upper halves
inline Lanes dealt(Lanes a, Lanes b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, FIRST, FIRST + 16, FIRST + 1, FIRST + 17, FIRST + 2, FIRST + 18, FIRST + 3, FIRST + 19,
                                   FIRST + 4, FIRST + 20, FIRST + 5, FIRST + 21, FIRST + 6, FIRST + 22, FIRST + 7, FIRST + 23);
#else
    return __builtin_shuffle(a, b, IntLanes{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23} + FIRST);
#endif
}

// 16 rows of 16 become columns: dealt four times, each bit of a place has come round.
inline void turn(Lanes (&rows)[16]) {
#pragma GCC unroll 4
    for (int time = 0; time < 4; time++) {
        Lanes next[16];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) next[2 * i] = dealt<0>(rows[i], rows[i + 8]), next[2 * i + 1] = dealt<8>(rows[i], rows[i + 8]);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) rows[i] = next[i];
    }
}

enum Kind : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };
enum Activation : int32_t { NONE = 0, RELU = 1, GELU = 2, GELU_TANH = 3, SILU = 4, TANH = 5 };

struct Matrix {
    int32_t kind, inputs, outputs, padded_inputs;  // padded to a whole block: 1, 32 or 64
    const void* blocks;
    const float* scales;  // int8: one an output
    const float* sums;    // int8: sum of an output's int8 weights, for processors that multiply unsigned by signed
    const float* bias;    // or null
};

struct Rows {  // the input of a product, rounded as the matrix wants it
    const float* values;
    int64_t stride;  // of `values`, in floats
    void* rounded;   // (rows up to a multiple of 16, padded_inputs)
    float* scales;   // int8: one a row
    int32_t count;
};

inline int64_t row_bytes(const Matrix& m) { return int64_t(m.padded_inputs) * (m.kind == INT8 ? 1 : m.kind == BFLOAT16 ? 2 : 4); }

// --- small functions ---------------------------------------------------------------------------------------------------

#define ALWAYS inline __attribute__((always_inline))  // a call would keep the loop around it from becoming vectors

ALWAYS float fast_exp(float x) {  // e^x to about 2e-7, without a call, so that loops vectorise
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = __builtin_rintf(x * 1.44269504f);
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f; p = p * r + 8.3334519e-3f; p = p * r + 4.1665795e-2f;
    p = p * r + 1.6666665e-1f; p = p * r + 5.0000001e-1f;
    int32_t bits = (int32_t(n) + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return (p * r * r + r + 1.0f) * power;
}

ALWAYS float logistic(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

ALWAYS float fast_tanh(float x) {  // exact in sign and limit
    float e = fast_exp(-2.0f * std::fabs(x));
    return std::copysign((1.0f - e) / (1.0f + e), x);
}

ALWAYS float erf_of(float x) {  // Abramowitz & Stegun 7.1.26, to 1.5e-7
    float a = std::fabs(x), t = 1.0f / (1.0f + 0.3275911f * a);
    float p = ((((1.061405429f * t - 1.453152027f) * t) + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f;
    return std::copysign(1.0f - p * t * fast_exp(-a * a), x);
}

template <int A>
ALWAYS float activated(float x) {
    if (A == RELU) return x > 0 ? x : 0;
    if (A == GELU) return 0.5f * x * (1.0f + erf_of(x * 0.70710678f));
    if (A == GELU_TANH) return 0.5f * x * (1.0f + fast_tanh(0.79788456f * (x + 0.044715f * x * x * x)));
    if (A == SILU) return x / (1.0f + fast_exp(-x));
    if (A == TANH) return fast_tanh(x);
    return x;
}

inline uint16_t to_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

ALWAYS float wide(float x) { return x; }  // what lies in memory as float32 or bfloat16
ALWAYS float wide(uint16_t x) {
    uint32_t bits = uint32_t(x) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
ALWAYS void narrow(float x, float& to) { to = x; }
ALWAYS void narrow(float x, uint16_t& to) { to = to_bfloat16(x); }

// --- rounding the input ------------------------------------------------------------------------------------------------

inline void round_row(const Matrix& m, const Rows& x, int row) {
    const float* v = x.values + row * x.stride;
    if (m.kind == BFLOAT16) {
        uint16_t* to = (uint16_t*)x.rounded + int64_t(row) * m.padded_inputs;
#pragma omp simd
        for (int i = 0; i < m.inputs; i++) to[i] = to_bfloat16(v[i]);
        for (int i = m.inputs; i < m.padded_inputs; i++) to[i] = 0;
        return;
    }
    int8_t* to = (int8_t*)x.rounded + int64_t(row) * m.padded_inputs;
    float largest = 0, wrong = 0;  // `wrong` is 0, or no number if one of the values is none
#pragma omp simd reduction(max : largest) reduction(+ : wrong)
    for (int i = 0; i < m.inputs; i++) largest = std::fabs(v[i]) > largest ? std::fabs(v[i]) : largest, wrong += v[i] - v[i];
    float inverse = largest > 0 ? 127.0f / largest : 0;
    x.scales[row] = largest / 127.0f + wrong;
#pragma omp simd
    for (int i = 0; i < m.inputs; i++) to[i] = int8_t(int32_t(__builtin_rintf(v[i] * inverse)));
    for (int i = m.inputs; i < m.padded_inputs; i++) to[i] = 0;
}

// --- 16 outputs of a few rows ------------------------------------------------------------------------------------------

struct Output {
    float* values;
    int64_t stride;
    bool adds;  // to what stands there
};

template <int A>
inline void finish(Lanes y, const Matrix& m, int block, const Output& out, int row) {
    int first = block * 16, count = m.outputs - first;
    float* to = out.values + row * out.stride + first;
    if (count >= 16) {
        if (m.bias) y += load(m.bias + first);
        if (A != NONE) {
            float each[16];
            store(each, y);
#pragma omp simd
            for (int o = 0; o < 16; o++) each[o] = activated<A>(each[o]);
            y = load(each);
        }
        if (out.adds) y += load(to);
        store(to, y);
        return;
    }
    for (int o = 0; o < count; o++) {
        float one = activated<A>(y[o] + (m.bias ? m.bias[first + o] : 0));
        to[o] = out.adds ? to[o] + one : one;
    }
}

inline Lanes scaled(IntLanes sums, const Matrix& m, int block, float row_scale) {
    return __builtin_convertvector(sums, Lanes) * load(m.scales + block * 16) * row_scale;  // padded to whole blocks
}

template <int A, int R>
inline void float_rows(const Matrix& m, const Rows& x, int row, int block, const Output& out) {  // two blocks at once
    const float* w = (const float*)m.blocks + int64_t(block) * m.inputs * 16;
    const float* w1 = w + int64_t(m.inputs) * 16;
    const float* from = x.values + row * x.stride;
    Lanes sums[R] = {}, more[R] = {};
    for (int i = 0; i < m.inputs; i++) {
        Lanes first = load(w + int64_t(i) * 16), second = load(w1 + int64_t(i) * 16);
        for (int r = 0; r < R; r++) {
            float value = from[r * x.stride + i];
            sums[r] += first * value, more[r] += second * value;
        }
    }
    for (int r = 0; r < R; r++) {
        finish<A>(sums[r], m, block, out, row + r);
        if ((block + 1) * 16 < m.outputs) finish<A>(more[r], m, block + 1, out, row + r);
    }
}

ALWAYS Lanes add_pairs(Lanes sums, int32_t two, Lanes weights) {  // 2 inputs times 16 outputs, all bfloat16
#if defined(__AVX512BF16__)
    return (Lanes)_mm512_dpbf16_ps((__m512)sums, (__m512bh)_mm512_set1_epi32(two), (__m512bh)weights);
#else
    IntLanes both = (IntLanes)weights;
    Lanes first = (Lanes)(both << 16), second = (Lanes)(both & int32_t(0xffff0000));
    uint32_t a = uint32_t(two) << 16, b = uint32_t(two) & 0xffff0000u;
    float x0, x1;
    memcpy(&x0, &a, 4); memcpy(&x1, &b, 4);
    return sums + (first * x0 + second * x1);
#endif
}

template <int A, int R>
inline void bfloat_rows(const Matrix& m, const Rows& x, int row, int block, const Output& out) {  // likewise
    const char* w = (const char*)m.blocks + int64_t(block) * m.padded_inputs * 32;
    const char* w1 = w + int64_t(m.padded_inputs) * 32;
    const uint16_t* in = (const uint16_t*)x.rounded + int64_t(row) * m.padded_inputs;
    Lanes sums[R] = {}, more[R] = {};
    for (int pair = 0; pair < m.padded_inputs / 2; pair++) {
        const Lanes first = load((const float*)(w + pair * 64)), second = load((const float*)(w1 + pair * 64));
        for (int r = 0; r < R; r++) {
            int32_t two;
            memcpy(&two, in + int64_t(r) * m.padded_inputs + 2 * pair, 4);
            sums[r] = add_pairs(sums[r], two, first), more[r] = add_pairs(more[r], two, second);
        }
    }
    for (int r = 0; r < R; r++) {
        finish<A>(sums[r], m, block, out, row + r);
        if ((block + 1) * 16 < m.outputs) finish<A>(more[r], m, block + 1, out, row + r);
    }
}

template <int A, int R>
inline void int_rows(const Matrix& m, const Rows& x, int row, int block, const Output& out) {
    const int8_t* w = (const int8_t*)m.blocks + int64_t(block) * m.padded_inputs * 16;
    const int8_t* in = (const int8_t*)x.rounded + int64_t(row) * m.padded_inputs;
    IntLanes sums[R] = {};
    for (int group = 0; group < m.padded_inputs / 4; group++) {
        for (int r = 0; r < R; r++) {
            const int8_t* four = in + int64_t(r) * m.padded_inputs + 4 * group;
#if defined(__AVX512VNNI__)
            int32_t packed;
            memcpy(&packed, four, 4);  // x + 128 is unsigned; 128 times the sum of the weights is taken off at the end
            sums[r] = (IntLanes)_mm512_dpbusd_epi32((__m512i)sums[r], _mm512_set1_epi32(packed ^ int32_t(0x80808080)), _mm512_loadu_si512(w + group * 64));
#else
            for (int o = 0; o < 16; o++)
                for (int j = 0; j < 4; j++) sums[r][o] += int32_t(four[j]) * w[group * 64 + o * 4 + j];
#endif
        }
    }
    for (int r = 0; r < R; r++) {
        Lanes y;
#if defined(__AVX512VNNI__)
        y = (__builtin_convertvector(sums[r], Lanes) - 128.0f * load(m.sums + block * 16)) * load(m.scales + block * 16) * x.scales[row + r];
#else
        y = scaled(sums[r], m, block, x.scales[row + r]);
#endif
        finish<A>(y, m, block, out, row + r);
    }
}

template <int A, int R>
inline void some_rows(const Matrix& m, const Rows& x, int row, int block, const Output& out) {
    if (m.kind == INT8) int_rows<A, R>(m, x, row, block, out);
    else if (m.kind == BFLOAT16) bfloat_rows<A, R>(m, x, row, block, out);
    else float_rows<A, R>(m, x, row, block, out);
}

// --- tiles -------------------------------------------------------------------------------------------------------------

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
#define REGARD_TILES 1
struct alignas(64) TileShapes { uint8_t palette, start, zero[14]; uint16_t bytes[16]; uint8_t rows[16]; };

struct Tiles {  // tile registers of this thread for as long as it lives; what was set before is set again after it
    TileShapes before;
    Tiles() {
        _tile_storeconfig(&before);
        TileShapes shapes = {};
        shapes.palette = 1;
        for (int t = 0; t < 8; t++) shapes.bytes[t] = 64, shapes.rows[t] = 16;
        _tile_loadconfig(&shapes);
    }
    ~Tiles() { _tile_loadconfig(&before); }
};

// 16 or 32 rows by 32 outputs; both row tiles lie in `rounded`, whose rows are padded to a multiple of 16.
template <int A, bool INT, bool TWO>
inline void tile_block(const Matrix& m, const Rows& x, int row, int block, const Output& out) {
    int64_t bytes = row_bytes(m);
    const char* a = (const char*)x.rounded + row * bytes;
    const char* w = (const char*)m.blocks + int64_t(block) * bytes * 16;
    const char* w1 = w + bytes * 16;
    _tile_zero(0); _tile_zero(1);
    if (TWO) { _tile_zero(2); _tile_zero(3); }
    for (int64_t at = 0; at < bytes; at += 64) {
        _tile_loadd(6, w + at * 16, 64);
        _tile_loadd(7, w1 + at * 16, 64);
        _tile_loadd(4, a + at, bytes);
        if (INT) { _tile_dpbssd(0, 4, 6); _tile_dpbssd(1, 4, 7); }
        else { _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); }
        if (TWO) {
            _tile_loadd(5, a + 16 * bytes + at, bytes);
            if (INT) { _tile_dpbssd(2, 5, 6); _tile_dpbssd(3, 5, 7); }
            else { _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7); }
        }
    }
    alignas(64) int32_t found[4][16][16];
    _tile_stored(0, found[0], 64); _tile_stored(1, found[1], 64);
    if (TWO) { _tile_stored(2, found[2], 64); _tile_stored(3, found[3], 64); }
    for (int part = 0; part < (TWO ? 4 : 2); part++) {
        int first = row + (part / 2) * 16, at = block + part % 2;
        if (at * 16 >= m.outputs) continue;
        for (int r = 0; r < 16 && first + r < x.count; r++) {
            Lanes y = INT ? scaled(*(const LooseIntLanes*)found[part][r], m, at, x.scales[first + r]) : load((const float*)found[part][r]);
            finish<A>(y, m, at, out, first + r);
        }
    }
}

template <int A, bool INT>
inline void tile_product(const Matrix& m, const Rows& x, int begin, int end, const Output& out) {
    for (int block = begin; block < end; block += 2) {
        int row = 0;
        for (; row + 16 < x.count; row += 32) tile_block<A, INT, true>(m, x, row, block, out);
        if (row < x.count) tile_block<A, INT, false>(m, x, row, block, out);
    }
}
#endif

template <int A>
inline void product_as(const Matrix& m, const Rows& x, int begin, int end, const Output& out) {
#if defined(REGARD_TILES)
    if (m.kind != FLOAT32) {
        Tiles tiles;
        return m.kind == INT8 ? tile_product<A, true>(m, x, begin, end, out) : tile_product<A, false>(m, x, begin, end, out);
    }
#endif
    // At most 8 rows at a time: rows often lie a power of two apart, and more than 8 would drive each other out of the
    // first cache. In equal parts: 4 and 5 for 9, as the sums of a single row would wait for one another.
    const int blocks = (m.outputs + 15) / 16, step = m.kind == INT8 ? 1 : 2, parts = (x.count + 7) / 8;
    for (int block = begin; block < (end < blocks ? end : blocks); block += step)
        for (int part = 0; part < parts; part++) {
            const int row = x.count * part / parts, rows = x.count * (part + 1) / parts - row;
#define OF(n) case n: some_rows<A, n>(m, x, row, block, out); break
            switch (rows) { OF(8); OF(7); OF(6); OF(5); OF(4); OF(3); OF(2); OF(1); }
#undef OF
        }
}

// The outputs of blocks [begin, end) for all rows; begin is even, and so is the number of blocks that are stored.
inline void product(const Matrix& m, const Rows& x, int begin, int end, int activation, const Output& out) {
    switch (activation) {
        case RELU: return product_as<RELU>(m, x, begin, end, out);
        case GELU: return product_as<GELU>(m, x, begin, end, out);
        case GELU_TANH: return product_as<GELU_TANH>(m, x, begin, end, out);
        case SILU: return product_as<SILU>(m, x, begin, end, out);
        case TANH: return product_as<TANH>(m, x, begin, end, out);
        default: return product_as<NONE>(m, x, begin, end, out);
    }
}
