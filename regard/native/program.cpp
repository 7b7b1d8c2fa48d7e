// A program of few operations that runs the layers of a decoder or encoder over rows of float32, in one call.
//
// Python writes the program once for a model (regard/generation/program.py), from the model's own parts; here is no
// model, only the operations. Buffers are arrays of rows; every operation names the buffers it reads and writes. All
// threads go through the program together, each taking its share of every operation.
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__linux__) && defined(__AMX_INT8__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#include "recurrence.h"
#include "attention.h"
#include "gelu.h"
#include "lstm.h"
#include "objective.h"
#include "product.h"
#include "texts.h"

// --- products ----------------------------------------------------------------------------------------------------------

// target = f(source W^T + b), or added to it. p: the matrix; a: the function; b: adds; c: stride of the target (0: the outputs).
static void linear(const Operation& op, const Call& call, int thread, int threads) {
    const Matrix& m = *(const Matrix*)op.p;
    Rows x = rounded(m, call, call.buffers[op.source], m.inputs, call.rows, thread, threads);
    Share mine = share((m.outputs + 15) / 16, thread, threads, 2);
    product(m, x, mine.begin, mine.end, op.a, {call.buffers[op.target], op.c ? op.c : m.outputs, op.b != 0});
}

struct Best {  // the largest logits of one row so far, and the sum of all e^(logit - largest)
    float largest = -INFINITY, sum = 0;
    float values[64];
    int64_t tokens[64];
    int count = 0;

    void take(float value, int64_t token, int top) {
        if (count == top && value <= values[top - 1]) return;
        int at = count < top ? count++ : top - 1;
        while (at > 0 && values[at - 1] < value) values[at] = values[at - 1], tokens[at] = tokens[at - 1], at--;
        values[at] = value, tokens[at] = token;
    }

    void read(const float* logits, int count_of, int64_t first, const Call& call) {
        float most = -INFINITY;
#pragma omp simd reduction(max : most)
        for (int i = 0; i < count_of; i++) most = logits[i] > most ? logits[i] : most;
        if (!(most > -INFINITY)) return;
        float now = std::max(largest, most), added = 0;
#pragma omp simd reduction(+ : added)
        for (int i = 0; i < count_of; i++) added += fast_exp(logits[i] - now);
        sum = sum * (largest > -INFINITY ? fast_exp(largest - now) : 0) + added, largest = now;
        for (int i = 0; i < count_of; i += 16) {
            int end = std::min(i + 16, count_of);
            float floor = count == call.top ? values[call.top - 1] : -INFINITY, peak = -INFINITY;
            for (int j = i; j < end; j++) peak = logits[j] > peak ? logits[j] : peak;
            if (peak <= floor) continue;
            for (int j = i; j < end; j++)
                if (std::find(call.forbidden, call.forbidden + call.forbidden_count, first + j) == call.forbidden + call.forbidden_count)
                    take(logits[j], first + j, call.top);
        }
    }
};

// The best tokens of every row and the normaliser of its logits, which never lie in memory all at once. p: the matrix.
static void top(const Operation& op, const Call& call, std::vector<Best>* found, int thread, int threads) {
    const Matrix& m = *(const Matrix*)op.p;
    const int chunk = 32;  // blocks: 512 tokens
    Rows x = rounded(m, call, call.buffers[op.source], m.inputs, call.rows, thread, threads);
    Share mine = share((m.outputs + 15) / 16, thread, threads, 2);
    float* logits = scratch(size_t(call.rows) * chunk * 16);
    std::vector<Best>& best = found[thread];
    best.assign(call.rows, Best());
    for (int begin = mine.begin; begin < mine.end; begin += chunk) {
        int end = std::min(begin + chunk, mine.end), count = std::min(end * 16, m.outputs) - begin * 16;
        product(m, x, begin, end, NONE, {logits - begin * 16, chunk * 16, false});
        for (int row = 0; row < call.rows; row++) best[row].read(logits + int64_t(row) * chunk * 16, count, begin * 16, call);
    }
    meet(threads);
    Share rows = share(call.rows, thread, threads);
    for (int row = rows.begin; row < rows.end; row++) {
        Best all = found[0][row];
        for (int other = 1; other < threads; other++) {
            const Best& more = found[other][row];
            for (int i = 0; i < more.count; i++) all.take(more.values[i], more.tokens[i], call.top);
            float now = std::max(all.largest, more.largest);
            if (now > -INFINITY) all.sum = all.sum * std::exp(all.largest - now) + more.sum * std::exp(more.largest - now);
            all.largest = now;
        }
        for (int i = 0; i < call.top; i++) {
            call.top_values[int64_t(row) * call.top + i] = i < all.count ? all.values[i] : -INFINITY;
            call.top_tokens[int64_t(row) * call.top + i] = i < all.count ? all.tokens[i] : 0;
        }
        // A logit that is no number shows here: the sum is then no number either.
        call.normalisers[row] = all.largest + std::log(all.sum);
    }
}

// --- position-wise work ------------------------------------------------------------------------------------------------

// target = f * row of a table + row of another. a: width; b: first row of positions; p: embeddings; q: positions or null.
static void embed(const Operation& op, const Call& call, int thread, int threads) {
    Share mine = share(call.rows, thread, threads);
    for (int row = mine.begin; row < mine.end; row++) {
        const float* from = (const float*)op.p + call.tokens[row] * op.a;
        const float* place = op.q ? (const float*)op.q + int64_t(call.positions[row] + op.b) * op.a : nullptr;
        float* to = call.buffers[op.target] + int64_t(row) * op.a;
        for (int i = 0; i < op.a; i++) to[i] = from[i] * op.f + (place ? place[i] : 0);
    }
}

// A norm of every row. a: width; b: 0 layer norm, 1 root mean square; f: epsilon; p: weight or null; q: bias or null.
static void norm(const Operation& op, const Call& call, int thread, int threads) {
    Share mine = share(call.rows, thread, threads);
    const float *weight = (const float*)op.p, *bias = (const float*)op.q;
    for (int row = mine.begin; row < mine.end; row++) {
        const float* x = call.buffers[op.source] + int64_t(row) * op.a;
        float* y = call.buffers[op.target] + int64_t(row) * op.a;
        float mean = 0, squares = 0;
        if (op.b == 0) {
#pragma omp simd reduction(+ : mean)
            for (int i = 0; i < op.a; i++) mean += x[i];
            mean /= op.a;
        }
#pragma omp simd reduction(+ : squares)
        for (int i = 0; i < op.a; i++) squares += (x[i] - mean) * (x[i] - mean);
        float inverse = 1.0f / std::sqrt(squares / op.a + op.f);
        for (int i = 0; i < op.a; i++) {
            float one = (x[i] - mean) * inverse;
            if (weight) one *= weight[i];
            y[i] = bias ? one + bias[i] : one;
        }
    }
}

// Turn the first b heads of width c in each row (of a floats) by its position; p, q: cosines and sines (positions, c / 2).
static void rotate(const Operation& op, const Call& call, int thread, int threads) {
    Share mine = share(call.rows, thread, threads);
    int half = op.c / 2;
    for (int row = mine.begin; row < mine.end; row++) {
        const float* cosines = (const float*)op.p + int64_t(call.positions[row]) * half;
        const float* sines = (const float*)op.q + int64_t(call.positions[row]) * half;
        for (int head = 0; head < op.b; head++) {
            float* x = call.buffers[op.target] + int64_t(row) * op.a + head * op.c;
            for (int i = 0; i < half; i++) {
                float first = x[i], second = x[i + half];
                x[i] = first * cosines[i] - second * sines[i];
                x[i + half] = second * cosines[i] + first * sines[i];
            }
        }
    }
}

// target *= source. a: width.
static void multiply(const Operation& op, const Call& call, int thread, int threads) {
    Share mine = share(int64_t(call.rows) * op.a, thread, threads);
    const float* x = call.buffers[op.source];
    float* y = call.buffers[op.target];
    for (int i = mine.begin; i < mine.end; i++) y[i] *= x[i];
}

// Write keys and values of each row to its place in the cache. a: stride of the source; b: where they begin in it; c: their
// width together; d: the cache; e: its stride.
static void remember(const Operation& op, const Call& call, int thread, int threads) {
    Share mine = share(call.rows, thread, threads);
    for (int row = mine.begin; row < mine.end; row++) {
        int place = call.positions[row], slot = call.slots[row];
        if (call.table) call.table[int64_t(row) * call.table_stride + place] = slot;
        float* to = call.caches[op.d] + (int64_t(slot) * call.room + place) * op.e;
        memcpy(to, call.buffers[op.source] + int64_t(row) * op.a + op.b, size_t(op.c) * 4);
    }
}

// --- attention ---------------------------------------------------------------------------------------------------------

struct Seen {  // where the keys lie that some queries look at
    const float* base;
    int64_t stride;
    const int32_t* table;  // or null: one after the other
    int64_t slot_size;
    int count;
    const float* at(int s) const { return base + (table ? table[s] * slot_size : 0) + s * stride; }
};

static float sum_of(Lanes x) {
    typedef float Half __attribute__((vector_size(32)));
    typedef float Quarter __attribute__((vector_size(16)));
    Half low, high;
    memcpy(&low, &x, 32); memcpy(&high, (char*)&x + 32, 32);
    low += high;
    Quarter a, b;
    memcpy(&a, &low, 16); memcpy(&b, (char*)&low + 16, 16);
    a += b;
    return (a[0] + a[2]) + (a[1] + a[3]);
}

// q . k for keys [0, count) in 16 W channels that stay in registers.
template <int W>
static void dots(const float* query, const Seen& keys, int count, float* to) {
    Lanes q[W];
    for (int w = 0; w < W; w++) q[w] = load(query + 16 * w);
    for (int s = 0; s < count; s++) {
        const float* key = keys.at(s);
        Lanes sum = q[0] * load(key);
        for (int w = 1; w < W; w++) sum += q[w] * load(key + 16 * w);
        to[s] = sum_of(sum);
    }
}

template <int W>
static void mixture(const float* weights, const Seen& keys, int64_t offset, int count, float* to) {
    Lanes sum[W] = {};
    for (int s = 0; s < count; s++) {
        const float* value = keys.at(s) + offset;
        for (int w = 0; w < W; w++) sum[w] += load(value + 16 * w) * weights[s];
    }
    for (int w = 0; w < W; w++) store(to + 16 * w, sum[w]);
}

static void any_dots(const float* query, const Seen& keys, int count, int width, float* to) {
    for (int s = 0; s < count; s++) {
        const float* key = keys.at(s);
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int i = 0; i < width; i++) dot += query[i] * key[i];
        to[s] = dot;
    }
}

static void any_mixture(const float* weights, const Seen& keys, int64_t offset, int count, int width, float* to) {
    memset(to, 0, size_t(width) * 4);
    for (int s = 0; s < count; s++) {
        const float* value = keys.at(s) + offset;
#pragma omp simd
        for (int i = 0; i < width; i++) to[i] += weights[s] * value[i];
    }
}

// One query over the first `count` keys. `added` points at distance 0 from the query, or is null.
static void attend(const float* query, float* mixed, int count, int place, const Seen& keys, int64_t value_offset,
                   int width, float scale, const float* added) {
    float *weights = scratch(size_t(count)), largest = -INFINITY, sum = 0;
    switch (width) {
        case 32: dots<2>(query, keys, count, weights); break;
        case 64: dots<4>(query, keys, count, weights); break;
        case 128: dots<8>(query, keys, count, weights); break;
        default: any_dots(query, keys, count, width, weights);
    }
#pragma omp simd
    for (int s = 0; s < count; s++) weights[s] *= scale;
    if (added) for (int s = 0; s < count; s++) weights[s] += added[s - place];
#pragma omp simd reduction(max : largest)
    for (int s = 0; s < count; s++) largest = weights[s] > largest ? weights[s] : largest;
#pragma omp simd reduction(+ : sum)
    for (int s = 0; s < count; s++) weights[s] = fast_exp(weights[s] - largest), sum += weights[s];
    float inverse = count ? 1.0f / sum : 0;
#pragma omp simd
    for (int s = 0; s < count; s++) weights[s] *= inverse;
    switch (width) {
        case 32: mixture<2>(weights, keys, value_offset, count, mixed); break;
        case 64: mixture<4>(weights, keys, value_offset, count, mixed); break;
        case 128: mixture<8>(weights, keys, value_offset, count, mixed); break;
        default: any_mixture(weights, keys, value_offset, count, width, mixed);
    }
}

static Seen seen_by(int row, int kind, int number, int64_t stride, int64_t offset, const Call& call, int& place) {
    Seen keys = {};
    keys.stride = stride;
    if (kind >= OF_ROWS) {
        keys.base = call.buffers[number] + int64_t(call.begins[row]) * stride + offset;
        keys.count = call.ends[row] - call.begins[row];
        place = row - call.begins[row];
    } else if (kind == OF_MEMORY) {
        int family = call.families[row];
        keys.base = call.buffers[number] + int64_t(call.sources[family]) * stride + offset;
        keys.count = call.sources[family + 1] - call.sources[family];
        place = call.positions[row];
    } else {
        keys.slot_size = int64_t(call.room) * stride;
        keys.table = call.table ? call.table + int64_t(row) * call.table_stride : nullptr;
        keys.base = call.caches[number] + (call.table ? 0 : call.slots[row] * keys.slot_size) + offset;
        place = call.positions[row];
        keys.count = place + 1;
    }
    return keys;
}

// a: stride of the queries; b: heads; c: heads of keys; d: head width; e: whose keys + 8 * (cache or buffer); f: scale;
// p: what distances add (heads, 2 g - 1), or null; g: longest distance + 1; q: the stride and r: the offset of keys, as integers.
static void attention(const Operation& op, const Call& call, int thread, int threads) {
    int kind = op.e % 8, number = op.e / 8, width = op.d, group = op.b / op.c;
    int64_t stride = (int64_t)(intptr_t)op.q, offset = (int64_t)(intptr_t)op.r, reach = (int64_t)op.g;
    Share mine = share(call.rows, thread, threads);
    const int32_t* groups = kind >= OF_ROWS ? call.begins : call.families ? call.families : call.slots;
    if (kind >= OF_PACKED_MEMORY) return attend_memory(op, call, thread, threads);
    if (kind >= OF_ROWS) attend_texts(op, call, thread, threads);
    for (int row = mine.begin; row < mine.end;) {
        if (kind >= OF_ROWS && call.ends[row] - call.begins[row] >= LONG_TEXT) { row = std::min(call.ends[row], mine.end); continue; }
        int next = row + 1;  // rows of one text look at much the same keys: head by head these stay close at hand
        while (next < mine.end && groups[next] == groups[row]) next++;
        for (int head = 0; head < op.b; head++) {
            const float* added = op.p ? (const float*)op.p + head * (2 * reach - 1) + reach - 1 : nullptr;
            for (int at = row; at < next; at++) {
                int place;
                Seen keys = seen_by(at, kind, number, stride, offset + head / group * width, call, place);
                attend(call.buffers[op.source] + int64_t(at) * op.a + head * width,
                       call.buffers[op.target] + int64_t(at) * op.b * width + head * width, keys.count, place, keys,
                       int64_t(op.c) * width, width, op.f, added);
            }
        }
        row = next;
    }
}

// --- running -----------------------------------------------------------------------------------------------------------

static void go(const Operation* operations, int count, const Call& call, std::vector<Best>* found, int thread, int threads) {
    for (int number = 0; number < count; number++) {
        const Operation& op = operations[number];
        switch (op.code) {
            case EMBED: embed(op, call, thread, threads); break;
            case NORM: norm(op, call, thread, threads); break;
            case LINEAR: linear(op, call, thread, threads); break;
            case ROTATE: rotate(op, call, thread, threads); break;
            case REMEMBER: remember(op, call, thread, threads); break;
            case ATTEND: attention(op, call, thread, threads); break;
            case MULTIPLY: multiply(op, call, thread, threads); break;
            case PACK: pack_memory(op, call, thread, threads); break;
            case RECALL: recall(op, call, thread, threads); break;
            case RECUR: recur(op, call, thread, threads); break;
            case ADDITIVE: additive(op, call, thread, threads); break;
            case MAXOUT: maxout(op, call, thread, threads); break;
            case TOP: top(op, call, found, thread, threads); break;
        }
        meet(threads);
    }
}

// Fewer threads than asked for may come: each takes its share of those that came.
template <class Work>
static void together(int threads, Work work) {
#if defined(_OPENMP)
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        work(omp_get_thread_num(), omp_get_num_threads());
        return;
    }
#endif
    work(0, 1);
}

extern "C" {

void regard_run(const Operation* operations, int32_t count, const Call* call) {
    std::vector<std::vector<Best>> found(std::max(1, call->threads));
    together(call->threads, [&](int thread, int threads) { go(operations, count, *call, found.data(), thread, threads); });
}

// A layer that learns: ahead, or the derivative.
void regard_lstm(const Lstm* call, int32_t back) {
    const bool whole = call->matrix->kind == FLOAT32;
    together(call->threads, [=](int thread, int threads) {
        if (back) whole ? lstm_back<float>(*call, thread, threads) : lstm_back<uint16_t>(*call, thread, threads);
        else whole ? lstm_ahead<float>(*call, thread, threads) : lstm_ahead<uint16_t>(*call, thread, threads);
    });
}

// part 0: ahead; 1: the derivative of a step; 2: that of the values, after all steps.
void regard_look(const Look* call, int32_t part) {
    auto work = [=](auto zero, int thread, int threads) {
        typedef decltype(zero) T;
        if (part == 0) look<T>(*call, thread, threads);
        else if (part == 1) look_back<T>(*call, thread, threads);
        else look_back_at_values<T>(*call, thread, threads);
    };
    together(call->threads, [=](int thread, int threads) {
        call->kind == FLOAT32 ? work(float(), thread, threads) : work(uint16_t(), thread, threads);
    });
}

void regard_objective(const Objective* call) {
    together(call->threads, [=](int thread, int threads) {
        call->kind == FLOAT32 ? objective<float>(*call, thread, threads) : objective<uint16_t>(*call, thread, threads);
    });
}

void regard_gelu(const Gelu* call) {
    together(call->threads, [=](int thread, int threads) {
        call->kind == FLOAT32 ? gelu<float>(*call, thread, threads) : gelu<uint16_t>(*call, thread, threads);
    });
}

void regard_attention(const Attention* call) {
    together(call->threads, [=](int thread, int threads) {
        call->kind == FLOAT32 ? ragged::run<float>(*call, thread, threads) : ragged::run<uint16_t>(*call, thread, threads);
    });
}

void regard_product(const Product* call) {
    together(call->threads, [=](int thread, int threads) { dense::run(*call, thread, threads); });
}

// Lay a matrix (outputs, inputs) out in blocks; `sums` as int8 needs them. All arrays are padded, and zero where nothing is.
void regard_pack_int8(const int8_t* from, int32_t outputs, int32_t inputs, int32_t padded, int8_t* to, float* sums) {
    for (int64_t o = 0; o < outputs; o++) {
        int32_t sum = 0;
        for (int64_t i = 0; i < inputs; i++) {
            sum += from[o * inputs + i];
            to[(o / 16) * padded * 16 + (i / 4) * 64 + (o % 16) * 4 + i % 4] = from[o * inputs + i];
        }
        sums[o] = float(sum);
    }
}

// The same for float32 and bfloat16: `across` from one output to the next, `along` from one input to the next, in floats.
void regard_pack(const float* from, int64_t across, int64_t along, const Matrix* to) { pack_view(from, across, along, *to); }

// What the processor must have, as /proc/cpuinfo names it.
const char* regard_needs() {
    return ""
#if defined(__AVX2__)
        " avx2 fma"
#endif
#if defined(__AVX512F__)
        " avx512f avx512bw"
#endif
#if defined(__AVX512VNNI__)
        " avx512_vnni"
#endif
#if defined(__AVX512BF16__)
        " avx512_bf16"
#endif
#if defined(REGARD_TILES)
        " amx_int8 amx_bf16"
#endif
        ;
}

// Ask the system for the tile registers; 0 where they cannot be had.
int32_t regard_begin() {
#if defined(REGARD_TILES)
    const long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return 1;
#endif
}
}
