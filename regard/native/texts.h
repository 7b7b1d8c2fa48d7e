// Attention of whole long texts, as encoders need it: many queries look at the same keys.
//
// Of each head the keys become a matrix whose outputs are the scores, and the values one whose inputs are the weights:
// both products are those of matrix.h, a few queries at a time, so that their scores stay near the processor.
#pragma once
#include "call.h"

const int LONG_TEXT = 48;      // tokens: shorter texts are attended query by query, as is then faster (docs/log.md)
const int ROUNDED_TEXT = 256;  // tokens: from here on rounding to bfloat16 is faster, where it is allowed
const int QUERIES = 32;        // at a time: two tiles

inline char* aligned(char*& at, int64_t bytes) {  // the next so many bytes, from a multiple of 64
    char* found = (char*)(((intptr_t)at + 63) / 64 * 64);
    at = found + bytes;
    return found;
}

// Lay out `outputs` rows of `inputs` floats; `across` is from one output to the next, `along` from one input to the next.
inline void pack_view(const float* from, int64_t across, int64_t along, const Matrix& m) {
    for (int64_t first = 0; first < m.outputs; first += 16) {
        int count = int(std::min<int64_t>(16, m.outputs - first));
        for (int64_t i = 0; i < m.inputs; i++) {
            const float* each = from + first * across + i * along;
            if (m.kind == FLOAT32) {
                float* to = (float*)m.blocks + first * m.inputs + i * 16;
                for (int o = 0; o < count; o++) to[o] = each[o * across];
            } else {
                uint16_t* to = (uint16_t*)m.blocks + first * m.padded_inputs + i / 2 * 32 + i % 2;
                for (int o = 0; o < count; o++) to[o * 2] = to_bfloat16(each[o * across]);
            }
        }
    }
}

// e^(scale * score + added) of some queries' scores, in place; the inverse of each one's sum into `inverses`.
inline void exponentials(float* scores, int64_t stride, int count, int tokens, float scale, const float* added, float* inverses) {
    for (int r = 0; r < count; r++) {
        float *row = scores + r * stride, largest = -INFINITY, sum = 0;
#pragma omp simd
        for (int s = 0; s < tokens; s++) row[s] *= scale;
        if (added) for (int s = 0; s < tokens; s++) row[s] += added[s - r];
#pragma omp simd reduction(max : largest)
        for (int s = 0; s < tokens; s++) largest = row[s] > largest ? row[s] : largest;
#pragma omp simd reduction(+ : sum)
        for (int s = 0; s < tokens; s++) row[s] = fast_exp(row[s] - largest), sum += row[s];
        inverses[r] = tokens ? 1.0f / sum : 0;
    }
}

// Keys and values of one head, laid out as matrices.
struct Packed { Matrix keys, values; };

inline int whole_tiles(int tokens) { return (tokens + 31) / 32 * 32; }

// Bytes of keys, or of values, of one head.
inline int64_t packed_bytes(int tokens, int width, int kind) {
    return int64_t(whole_tiles(tokens)) * whole_tiles(width) * (kind == FLOAT32 ? 4 : 2);
}

inline Packed packed_at(char* keys, int tokens, int width, int kind) {
    bool whole = kind == FLOAT32;
    return {{kind, width, tokens, whole ? width : whole_tiles(width), keys, nullptr, nullptr, nullptr},
            {kind, tokens, width, whole ? tokens : whole_tiles(tokens), keys + packed_bytes(tokens, width, kind), nullptr, nullptr, nullptr}};
}

inline void pack(const Packed& to, const float* keys, const float* values, int64_t stride) {
    if (to.keys.kind != FLOAT32) memset((void*)to.keys.blocks, 0, size_t(2 * packed_bytes(to.keys.outputs, to.keys.inputs, to.keys.kind)));
    pack_view(keys, stride, 1, to.keys);
    pack_view(values, 1, stride, to.values);
}

// Queries over keys and values that are packed. `added` points at distance 0 of the first query, or is null.
inline void attend_packed(const Packed& seen, const float* queries, int64_t stride, float* mixed, int64_t mixed_stride, int count, float scale,
                          const float* added, char* room) {
    const int tokens = seen.keys.outputs, width = seen.keys.inputs, even = whole_tiles(tokens), wide = whole_tiles(width);
    const bool whole = seen.keys.kind == FLOAT32;
    const int64_t row = even + 16;  // no power of two
    float* scores = (float*)aligned(room, QUERIES * row * 4);
    char *small_queries = aligned(room, QUERIES * wide * 2), *small_weights = aligned(room, QUERIES * even * 2);
    float inverses[QUERIES];
    for (int first = 0; first < count; first += QUERIES) {
        int some = std::min(QUERIES, count - first);
        Rows asking = {queries + first * stride, stride, small_queries, nullptr, some};
        for (int r = 0; !whole && r < some; r++) round_row(seen.keys, asking, r);
        product(seen.keys, asking, 0, even / 16, NONE, {scores, row, false});
        exponentials(scores, row, some, tokens, scale, added ? added - first : nullptr, inverses);
        Rows weights = {scores, row, small_weights, nullptr, some};
        for (int r = 0; !whole && r < some; r++) round_row(seen.values, weights, r);
        float* to = mixed + first * mixed_stride;
        product(seen.values, weights, 0, wide / 16, NONE, {to, mixed_stride, false});
        for (int r = 0; r < some; r++)
#pragma omp simd
            for (int i = 0; i < width; i++) to[r * mixed_stride + i] *= inverses[r];
    }
}

// Room that attend_packed works in, and before it `more` bytes.
inline char* attention_room(int tokens, int width, int64_t more) {
    return (char*)scratch(size_t(more + QUERIES * ((whole_tiles(tokens) + 16) * 6 + whole_tiles(width) * 2)) / 4 + 256);
}

// How keys and values are packed: in bfloat16 where the processor multiplies it.
inline int kind_of(bool rounds) {
#if defined(REGARD_TILES) || defined(__AVX512BF16__)
    return rounds ? BFLOAT16 : FLOAT32;
#else
    return (void)rounds, FLOAT32;
#endif
}

// All heads of all long texts, shared among the threads. The fields of the operation are those of `attention`.
inline void attend_texts(const Operation& op, const Call& call, int thread, int threads) {
    const int width = op.d;
    const int64_t stride = integer(op.q), offset = integer(op.r), reach = (int64_t)op.g;
    int64_t units = 0, unit = 0;
    for (int row = 0; row < call.rows; row = call.ends[row]) units += call.ends[row] - row >= LONG_TEXT ? op.b : 0;
    Share mine = share(units, thread, threads);
    for (int row = 0; row < call.rows; row = call.ends[row]) {
        int tokens = call.ends[row] - row;
        if (tokens < LONG_TEXT) continue;
        const int kind = kind_of(op.e % 8 == OF_ROUNDED_ROWS && tokens >= ROUNDED_TEXT);
        for (int head = 0; head < op.b; head++, unit++) {
            if (unit < mine.begin || unit >= mine.end) continue;
            int64_t bytes = 2 * packed_bytes(tokens, width, kind);
            char* room = attention_room(tokens, width, bytes);
            Packed seen = packed_at(aligned(room, bytes), tokens, width, kind);
            const float* keys = call.buffers[op.e / 8] + row * stride + offset + head / (op.b / op.c) * width;
            pack(seen, keys, keys + int64_t(op.c) * width, stride);
            attend_packed(seen, call.buffers[op.source] + int64_t(row) * op.a + head * width, op.a,
                          call.buffers[op.target] + int64_t(row) * op.b * width + head * width, int64_t(op.b) * width, tokens, op.f,
                          op.p ? (const float*)op.p + head * (2 * reach - 1) + reach - 1 : nullptr, room);
        }
    }
}

// --- a memory that stays packed ----------------------------------------------------------------------------------------

// Keys and values of one head of a source whose share of the memory begins at `first`, a multiple of 32 tokens. Of a token's
// floats (as many as it needs unrounded) those of a source come first that are used: a memory may be copied token by token.
inline Packed memory_of(float* memory, int first, int tokens, int head, int heads, int width, int kind) {
    char* begin = (char*)(memory + int64_t(first) * heads * 2 * whole_tiles(width));
    return packed_at(begin + head * 2 * packed_bytes(tokens, width, kind), tokens, width, kind);
}

// Keys and values of every source, packed, one source after the other. a: stride of the source; b: heads of keys; c: head
// width; d: whether in bfloat16.
inline void pack_memory(const Operation& op, const Call& call, int thread, int threads) {
    int64_t unit = 0;
    for (int row = 0, first = 0; row < call.rows; row = call.ends[row]) {
        int tokens = call.ends[row] - row;
        for (int head = 0; head < op.b; head++, unit++) {
            if (unit % threads != thread) continue;
            const float* keys = call.buffers[op.source] + int64_t(row) * op.a + head * op.c;
            pack(memory_of(call.buffers[op.target], first, tokens, head, op.b, op.c, kind_of(op.d)), keys, keys + int64_t(op.b) * op.c, op.a);
        }
        first += whole_tiles(tokens);
    }
}

// Attention over a packed memory: rows of one source ask together. The fields are those of `attention`.
inline void attend_memory(const Operation& op, const Call& call, int thread, int threads) {
    const int kind = kind_of(op.e % 8 == OF_ROUNDED_MEMORY), width = op.d;
    int64_t unit = 0;
    for (int row = 0, next; row < call.rows; row = next) {
        int family = call.families[row], first = call.sources[family], tokens = call.sources[family + 1] - first;
        for (next = row + 1; next < call.rows && call.families[next] == family;) next++;
        for (int head = 0; head < op.b; head++, unit++) {
            if (unit % threads != thread) continue;
            Packed seen = memory_of(call.buffers[op.e / 8], first, tokens, head / (op.b / op.c), op.c, width, kind);
            attend_packed(seen, call.buffers[op.source] + int64_t(row) * op.a + head * width, op.a,
                          call.buffers[op.target] + int64_t(row) * op.b * width + head * width, int64_t(op.b) * width, next - row, op.f,
                          nullptr, attention_room(tokens, width, 0));
        }
    }
}
