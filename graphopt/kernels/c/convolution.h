/* Convolutions over blocks of channels.
 *
 * A blocked tensor is stored as [batch, channels / BLOCK, height, width, BLOCK]. The micro-kernel keeps the sums of some
 * pixels of a row and of up to four blocks of output channels in registers, and multiplies one input value with one
 * vector of weights at a time. The input may be blocked or plain: a plain channel is a block of one. Weights are stored
 * as [group, output block, input block, kernel height, kernel width, input channel, BLOCK]; constant ones are brought
 * into this order once. Pixels at a border leave out what lies outside of the image; narrow images are copied, a chunk
 * at a time, into a buffer with a border of zeros instead. Results are written in blocks, or transposed from a buffer.
 *
 * Products are summed in runs of about SUM_RUN, and the runs are added: the order depends on the shapes only, not on
 * threads.
 */
#include <math.h>

#if (defined(__AVX512F__) && BLOCK == 16) || (defined(__AVX__) && BLOCK == 8) /* elsewhere it would only take time */
#include <immintrin.h>
#endif

enum { ROWS_FLOATS = 9216, MOST_PIXELS = 16 };

/* Vectors may be wider than the processor's: such functions are all inline, so no calling convention is at stake. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

typedef float channels __attribute__((vector_size(4 * BLOCK), aligned(4), may_alias));

/* What the operator says. Dimensions of one-dimensional convolutions: height 1. */
typedef struct {
    int bias, sum;  /* whether there are such tensors */
    int dimensions; /* 1 or 2 */
    int blocked;    /* the operator of onnxruntime's blocked layout */
    int same;       /* 0: pads as given; 1: auto_pad SAME_UPPER; 2: SAME_LOWER */
    int64_t groups;
    int64_t stride[2], dilation[2], before[2], after[2];
    float low, high; /* bounds of the result */
} convolution;

/* ---------------------------------------------------------------- the micro-kernel */

typedef struct {
    const float *input;
    int64_t input_block;    /* floats from block to block of input channels */
    int64_t pixel;          /* floats from pixel to pixel of the result, in the input */
    int64_t tap_y, tap_x;   /* floats from tap to tap, in the input */
    int64_t taps_y, taps_x; /* taps */
    int64_t blocks;         /* input blocks to sum over */
    int64_t length, step;   /* values at a tap, and floats from one to the next */
    const float *weights;
    int64_t weights_tap, weights_row, weights_input, weights_output; /* floats from one to the next */
    float *result;
    int64_t result_block;
    const float *start; /* what the first run is added to: the bias (or NO_BIAS) */
    const float *sum;   /* a tensor like the result to add (or NULL), by the same steps */
    int merged;         /* the taps of a row follow each other and are one run of values */
    int first, last;    /* the first and the last run of sums */
    int bounded;
    float low, high;
} tile;

static inline channels all(float x)
{
    return x - (channels){0};
}

static inline channels load(const float *from)
{
    return *(const channels *)from;
}

static inline void store(float *to, channels x)
{
    *(channels *)to = x;
}

typedef int32_t channel_bits __attribute__((vector_size(4 * BLOCK), aligned(4), may_alias));

static inline __attribute__((always_inline, unused)) channels chosen(channel_bits condition, channels yes, channels no)
{
    return (channels)((condition & (channel_bits)yes) | (~condition & (channel_bits)no));
}

/* Not a number stays what it is. */
static inline __attribute__((always_inline)) channels bounded(channels x, float low, float high)
{
    const channels bottom = all(low), top = all(high);
#if defined(__AVX512F__) && BLOCK == 16
    return (channels)_mm512_min_ps((__m512)top, _mm512_max_ps((__m512)bottom, (__m512)x));
#elif defined(__AVX__) && BLOCK == 8
    return (channels)_mm256_min_ps((__m256)top, _mm256_max_ps((__m256)bottom, (__m256)x));
#else
    x = chosen(x < bottom, bottom, x);
    return chosen(x > top, top, x);
#endif
}

static const float NO_BIAS[MOST_BLOCKS * BLOCK] __attribute__((unused));

typedef void (*tile_function)(const tile *t, int64_t at, int64_t place);

/* Tile functions for one step from pixel to pixel, by output blocks (0: depthwise) and pixels; NULL where there is none,
 * but for one pixel of one block. */
typedef struct {
    int depthwise, plain, pointwise;
    int taps;      /* of a row of the window, one pixel apart; 0: any */
    int64_t pixel; /* 0: any */
    tile_function tile[MOST_BLOCKS + 1][MOST_PIXELS + 1];
} tile_family;

/* ---------------------------------------------------------------- shapes and plans */

/* The families of tile functions of a library, ended by NULL. The last ones are for any step. */
extern const tile_family *const TILE_FAMILIES[];

/* What the shapes say. Channels count per group. */
typedef struct {
    int64_t batch, groups, input_channels, output_channels, input_blocks, output_blocks;
    int64_t input_height, input_width, height, width, kernel_height, kernel_width;
    int64_t stride_y, stride_x, dilation_y, dilation_x, top, left;
    int64_t pitch; /* floats from pixel to pixel of the input: BLOCK or 1 */
    int plain_input, plain_output, depthwise, copies, bordered;
    int64_t inner_begin, inner_end; /* columns of the result whose windows lie inside of the image */
    int64_t chunk_height, chunk_width, chunk_rows, chunk_columns; /* size of a chunk of the result; number of chunks */
    int64_t window_height, window_width;                          /* input that a whole chunk needs */
    int64_t blocks_at_once;                                       /* input blocks of one run of sums */
    int64_t parts;                                                /* parts of the output blocks, a task each */
    int64_t tasks;
    const tile_family *tiles;
    float low, high;
} convolution_plan;

static inline int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t quotient_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Size of the result along one dimension, and the padding in front; 0 where the shapes contradict each other. */
SHARED int window_positions(const convolution *c, int d, int64_t size, int64_t kernel, int64_t *before, int64_t *result)
{
    int64_t span = (kernel - 1) * c->dilation[d] + 1, stride = c->stride[d];
    if (c->same) {
        *result = quotient_up(size, stride);
        int64_t padding = (*result - 1) * stride + span - size;
        padding = padding < 0 ? 0 : padding;
        *before = c->same == 1 ? padding / 2 : padding - padding / 2;
        return 1;
    }
    int64_t padded = size + c->before[d] + c->after[d];
    *before = c->before[d];
    *result = padded < span ? 0 : (padded - span) / stride + 1;
    return padded >= span;
}

/* The tile functions for some convolutions. */
SHARED const tile_family *family_of(int depthwise, int plain, int pointwise, int64_t taps, int64_t pixel)
{
    const tile_family *const *f = TILE_FAMILIES;
    while (*f && ((*f)->depthwise != depthwise || ((*f)->taps != 0 && (*f)->taps != taps)
                  || ((*f)->pixel != 0 && ((*f)->pixel != pixel || (*f)->plain != plain || (*f)->pointwise != pointwise))))
        f++;
    return *f;
}

/* The plan of a convolution of these shapes, without what depends on memory; NULL or what is wrong. */
SHARED const char *plan_convolution(const convolution *c, const shape *x, const shape *w, const shape *bias,
                                    const shape *sum, convolution_plan *p, shape *result)
{
    const int rank = c->dimensions + 2, flat = c->dimensions == 1;
    memset(p, 0, sizeof *p);
    if (x->rank != rank || w->rank != rank)
        return "a convolution of tensors of another rank";
    p->batch = x->size[0];
    p->groups = c->groups;
    p->input_channels = w->size[1];
    p->output_channels = w->size[0] / c->groups;
    p->input_height = flat ? 1 : x->size[2];
    p->input_width = x->size[rank - 1];
    p->kernel_height = flat ? 1 : w->size[2];
    p->kernel_width = w->size[rank - 1];
    p->plain_input = !c->blocked || (c->groups == 1 && p->input_channels < BLOCK);
    p->plain_output = !c->blocked;
    p->depthwise = c->blocked && c->groups > 1 && p->input_channels == 1 && p->output_channels == 1;
    p->low = c->low;
    p->high = c->high;
    if (w->size[0] % c->groups || x->size[1] != p->input_channels * c->groups || p->kernel_height < 1
        || p->kernel_width < 1)
        return "a convolution whose weights do not fit its input";
    if (c->bias && (bias->rank != 1 || bias->size[0] != w->size[0]))
        return "a convolution whose bias does not fit its weights";
    p->stride_y = flat ? 1 : c->stride[0];
    p->stride_x = c->stride[1];
    p->dilation_y = flat ? 1 : c->dilation[0];
    p->dilation_x = c->dilation[1];
    if (flat)
        p->height = 1;
    else if (!window_positions(c, 0, p->input_height, p->kernel_height, &p->top, &p->height))
        return "a convolution whose window is larger than its input";
    if (!window_positions(c, 1, p->input_width, p->kernel_width, &p->left, &p->width))
        return "a convolution whose window is larger than its input";
    result->rank = rank;
    result->size[0] = p->batch;
    result->size[1] = w->size[0];
    result->size[2] = p->height;
    result->size[rank - 1] = p->width;
    if (c->sum && !same_shape(sum, result))
        return "a convolution that adds a tensor of another shape";
    if (c->blocked && (w->size[0] % BLOCK || (!p->plain_input && x->size[1] % BLOCK)))
        return "a blocked convolution of channels that fill no blocks";
    if (c->blocked && c->groups > 1 && !p->depthwise && (p->input_channels % BLOCK || p->output_channels % BLOCK))
        return "a blocked convolution of groups that fill no blocks";
    if (p->depthwise) {
        p->groups = 1;
        p->output_blocks = w->size[0] / BLOCK;
        p->input_channels = p->output_channels = w->size[0];
    } else {
        p->output_blocks = quotient_up(p->output_channels, BLOCK);
    }
    p->pitch = p->plain_input ? 1 : BLOCK;
    p->input_blocks = p->depthwise ? 1 : p->input_channels / p->pitch;
    /* columns are what the micro-kernel runs along */
    if (p->input_width == 1 && p->kernel_width == 1 && p->width == 1 && p->left == 0) {
        p->input_width = p->input_height;
        p->kernel_width = p->kernel_height;
        p->stride_x = p->stride_y;
        p->dilation_x = p->dilation_y;
        p->left = p->top;
        p->width = p->height;
        p->input_height = p->kernel_height = p->stride_y = p->dilation_y = p->height = 1;
        p->top = 0;
    }
    int64_t bottom = (p->height - 1) * p->stride_y + (p->kernel_height - 1) * p->dilation_y - p->top;
    int64_t right = (p->width - 1) * p->stride_x + (p->kernel_width - 1) * p->dilation_x - p->left;
    p->bordered = p->top > 0 || p->left > 0 || bottom >= p->input_height || right >= p->input_width;
    p->inner_begin = least(p->left > 0 ? quotient_up(p->left, p->stride_x) : 0, p->width);
    int64_t room = p->input_width + p->left - (p->kernel_width - 1) * p->dilation_x;
    p->inner_end = clamp(room > 0 ? quotient_up(room, p->stride_x) : 0, p->inner_begin, p->width);
    /* pixels at a border are computed one by one: where they are many, it is faster to copy */
    int64_t border = p->width - (p->inner_end - p->inner_begin);
    int64_t taps = p->kernel_height * p->kernel_width;
    p->copies = p->bordered && border * (p->depthwise ? taps * 4 / 3 : 16) >= p->width;
    if (!p->bordered && p->top == 0 && p->left == 0 && p->kernel_height * p->kernel_width == 1
        && p->stride_y * p->stride_x == 1 && p->input_height == p->height && p->input_width == p->width) {
        p->input_width = p->width = p->inner_end = p->height * p->width;
        p->input_height = p->height = 1;
    }
    p->tiles = family_of(p->depthwise, p->plain_input, !p->depthwise && !p->plain_input && taps == 1 && !p->bordered,
                         p->dilation_x == 1 ? p->kernel_width : 0, p->stride_x * p->pitch);
    int64_t most_blocks = clamp(SUM_RUN / (taps * p->pitch), 1, p->input_blocks);
    p->blocks_at_once = p->depthwise ? 1 : quotient_up(p->input_blocks, quotient_up(p->input_blocks, most_blocks));
    int64_t work = p->batch * p->groups * p->output_blocks * p->height * p->width * taps
                   * (p->depthwise ? 1 : p->input_channels);
    p->parts = p->depthwise ? p->output_blocks : work > 1 << 16 ? clamp(p->output_blocks / 8, 1, 8) : 1;
    int64_t part_blocks = p->parts ? quotient_up(p->output_blocks, p->parts) : 1;
    p->parts = quotient_up(p->output_blocks, part_blocks);
    /* chunks: as many rows and columns as the buffer holds, of copied input and of plain results */
    int64_t copied = p->copies ? p->blocks_at_once * p->pitch : 0, written = p->plain_output ? part_blocks * BLOCK : 0;
    p->chunk_height = p->height < 1 ? 1 : p->height;
    p->chunk_width = p->width < 1 ? 1 : p->width;
    if (p->depthwise && p->copies) { /* the rows under a window stay in the first-level cache */
        int64_t most = ROWS_FLOATS / (p->kernel_height * BLOCK) - (p->kernel_width - 1) * p->dilation_x;
        most = clamp(most / p->stride_x, MOST_PIXELS, p->chunk_width < MOST_PIXELS ? MOST_PIXELS : p->chunk_width);
        p->chunk_width = quotient_up(p->chunk_width, quotient_up(p->chunk_width, most));
    }
    for (;;) {
        p->window_height = (p->chunk_height - 1) * p->stride_y + (p->kernel_height - 1) * p->dilation_y + 1;
        p->window_width = (p->chunk_width - 1) * p->stride_x + (p->kernel_width - 1) * p->dilation_x + 1;
        int64_t pixels = p->chunk_height * p->chunk_width;
        int64_t floats = p->window_height * p->window_width * copied + pixels * written;
        if ((floats <= CHUNK_FLOATS && pixels * BLOCK * part_blocks <= CHUNK_FLOATS) || pixels == 1)
            break;
        if (p->chunk_height > 1 && p->depthwise) /* few rows, or the copies overlap much */
            p->chunk_height = least(p->chunk_height - 1, quotient_up(p->height, quotient_up(p->height, p->chunk_height) + 1));
        else if (p->chunk_height > 1)
            p->chunk_height = quotient_up(p->chunk_height, 2);
        else if (p->chunk_width > 96)
            p->chunk_width = quotient_up(p->chunk_width, 96) * 48; /* whole tiles of any size */
        else
            p->chunk_width = quotient_up(p->chunk_width, 2);
    }
    p->chunk_rows = quotient_up(p->height, p->chunk_height);
    p->chunk_columns = quotient_up(p->width, p->chunk_width);
    p->tasks = p->batch * p->groups * p->chunk_rows * p->chunk_columns * p->parts;
    return NULL;
}

/* Floats of the weights in the order of the micro-kernel, the bias behind them. */
SHARED int64_t packed_convolution_floats(const convolution_plan *p)
{
    int64_t taps = p->kernel_height * p->kernel_width;
    if (p->depthwise)
        return p->output_blocks * (taps + 1) * BLOCK;
    return p->groups * p->output_blocks * BLOCK * (p->input_channels * taps + 1);
}

SHARED int64_t packed_biases(const convolution_plan *p)
{
    return p->groups * p->output_blocks * BLOCK;
}

/* Brings weights and bias into the order of the micro-kernel, channels of the last block filled up with zeros. */
SHARED void pack_weights(const convolution *c, const convolution_plan *p, const float *weights, const float *bias,
                         float *packed)
{
    int64_t taps = p->kernel_height * p->kernel_width;
    int64_t groups = p->groups, channels_in = p->depthwise ? 1 : p->input_channels;
    int64_t length = p->depthwise ? 1 : p->pitch;
    float *to = packed;
    for (int64_t g = 0; g < groups; g++)
        for (int64_t ob = 0; ob < p->output_blocks; ob++)
            for (int64_t ib = 0; ib < p->input_blocks; ib++)
                for (int64_t tap = 0; tap < taps; tap++)
                    for (int64_t i = 0; i < length; i++)
                        for (int64_t o = 0; o < BLOCK; o++) {
                            int64_t out = ob * BLOCK + o, in = ib * length + i, from;
                            if (!c->blocked)
                                from = ((g * p->output_channels + out) * channels_in + in) * taps + tap;
                            else /* [O / BLOCK, I / block, kernel, block, BLOCK] */
                                from = ((((g * p->output_blocks + ob) * p->input_blocks + ib) * taps + tap) * length + i)
                                           * BLOCK + o;
                            *to++ = out < p->output_channels ? weights[from] : 0;
                        }
    for (int64_t g = 0; g < groups; g++)
        for (int64_t out = 0; out < p->output_blocks * BLOCK; out++)
            *to++ = bias && out < p->output_channels ? bias[g * p->output_channels + out] : 0;
}

/* ---------------------------------------------------------------- running */

/* Copies the part of a block of input channels that a chunk needs, zeros where it lies outside of the image. */
SHARED void copy_window(const convolution_plan *p, const float *from, int64_t y0, int64_t x0, int64_t rows,
                        int64_t columns, float *to)
{
    const int64_t pitch = p->pitch, row = p->window_width * pitch;
    int64_t begin = clamp(-x0, 0, columns), end = clamp(p->input_width - x0, begin, columns);
    for (int64_t y = 0; y < rows; y++, to += row) {
        if (y0 + y < 0 || y0 + y >= p->input_height) {
            memset(to, 0, (size_t)(columns * pitch) * sizeof *to);
            continue;
        }
        memset(to, 0, (size_t)(begin * pitch) * sizeof *to);
        memset(to + end * pitch, 0, (size_t)((columns - end) * pitch) * sizeof *to);
        if (end > begin)
            memcpy(to + begin * pitch, from + ((y0 + y) * p->input_width + x0 + begin) * pitch,
                   (size_t)((end - begin) * pitch) * sizeof *to);
    }
}

/* Between a plain tensor like the result and a chunk of it in blocks [first, last) of output channels of a group. */
SHARED void copy_plain(const convolution_plan *p, int64_t group, int64_t n, int64_t first, int64_t last, int64_t y0,
                       int64_t x0, int64_t rows, int64_t columns, float *plain, float *chunk, int into_chunk)
{
    int64_t size = p->height * p->width, row = p->chunk_width * BLOCK;
    for (int64_t block = first; block < last; block++) {
        int64_t count = least(p->output_channels - block * BLOCK, BLOCK);
        int64_t channel = (n * p->groups + group) * p->output_channels + block * BLOCK;
        for (int64_t y = 0; y < rows; y++) {
            uint32_t *a = (uint32_t *)(void *)(plain + channel * size + (y0 + y) * p->width + x0);
            uint32_t *b = (uint32_t *)(void *)(chunk + ((block - first) * p->chunk_height + y) * row);
            if (into_chunk)
                pack_4(b, BLOCK, 1, a, 1, size, columns, count);
            else
                pack_4(a, size, 1, b, 1, BLOCK, count, columns);
        }
    }
}

/* One run of a convolution. */
typedef struct {
    const convolution_plan *p;
    const float *input, *packed, *bias, *sum;
    float *result;
    const flat_epilogue *epilogue; /* what is computed of each element as soon as it is there; NULL for nothing */
    void *const *tensors;
    const float *given; /* the weights as the operator has them */
} convolution_call;

/* The epilogue of a chunk: in memory it is a run of elements for each channel or block, or for each row of them. */
SHARED void run_chunk_epilogue(const convolution_call *call, int64_t first, int64_t lanes, int64_t parts, int64_t y0,
                               int64_t x0, int64_t rows, int64_t columns)
{
    const convolution_plan *p = call->p;
    for (int64_t part = first; part < first + parts; part++) {
        int64_t begin = ((part * p->height + y0) * p->width + x0) * lanes;
        if (columns == p->width)
            run_flat_epilogue(call->epilogue, call->tensors, call->result, begin, rows * columns * lanes);
        else
            for (int64_t y = 0; y < rows; y++)
                run_flat_epilogue(call->epilogue, call->tensors, call->result, begin + y * p->width * lanes, columns * lanes);
    }
}

/* The taps of a window at `at` (the first tap's place, it may lie outside) that lie inside of the image. */
static inline void taps_inside(int64_t at, int64_t size, int64_t taps, int64_t dilation, int64_t *first, int64_t *end)
{
    *first = at < 0 ? least(quotient_up(-at, dilation), taps) : 0;
    *end = at < size ? least((size - 1 - at) / dilation + 1, taps) : 0;
    if (*end < *first)
        *end = *first;
}

/* The size of tiles that leaves the least work for `count` pixels: a tile costs its multiplications, and its start. */
SHARED int64_t best_tile(const tile_function *tile, int64_t count)
{
    int64_t best = 1, least_cost = INT64_MAX;
    for (int64_t size = 1; size <= MOST_PIXELS && size <= count; size++) {
        if (!tile[size])
            continue;
        int64_t cost = 0;
        for (int64_t left = count, at_once = size; left > 0; left -= at_once) {
            while (at_once > left || !tile[at_once])
                at_once--;
            int64_t tiles = left / at_once;
            cost += tiles * (3 + (at_once < 4 ? 4 : at_once));
            left -= (tiles - 1) * at_once;
        }
        if (cost <= least_cost) {
            least_cost = cost;
            best = size;
        }
    }
    return best;
}

/* Computes `count` neighbouring pixels; `at` and `place`: the first one's, in input and result. */
SHARED void run_pixels(const tile *t, const tile_function *functions, int64_t at_once, int64_t at, int64_t place,
                       int64_t count)
{
    while (count > 0) {
        while (at_once > count || !functions[at_once])
            at_once--;
        for (; count >= at_once; count -= at_once, at += at_once * t->pixel, place += at_once * BLOCK)
            functions[at_once](t, at, place);
    }
}

/* The pixels of one row of a chunk, which begins at column x0: at a border one by one, else many at once. */
SHARED void run_row(const convolution_plan *p, const tile *row, const tile_function *functions, int64_t at_once,
                    int64_t at, int64_t place, int64_t x0, int64_t columns)
{
    int64_t begin = clamp(p->inner_begin - x0, 0, columns), end = clamp(p->inner_end - x0, begin, columns);
    for (int64_t x = 0; x < columns; x++) {
        if (x == begin && end > begin) {
            run_pixels(row, functions, at_once, at + x * row->pixel, place + x * BLOCK, end - begin);
            x = end - 1;
            continue;
        }
        int64_t first, beyond;
        tile t = *row;
        taps_inside((x0 + x) * p->stride_x - p->left, p->input_width, p->kernel_width, p->dilation_x, &first, &beyond);
        t.weights += first * t.weights_tap;
        if (t.merged)
            t.length = (beyond - first) * p->pitch;
        else
            t.taps_x = beyond - first;
        functions[1](&t, at + x * t.pixel + first * p->dilation_x * p->pitch, place + x * BLOCK);
    }
}

/* One task: a chunk of the result, for a part of the output blocks of a group. */
SHARED int run_convolution(const convolution_call *call, int64_t task)
{
    const convolution_plan *p = call->p;
    int64_t part = task % p->parts, rest = task / p->parts;
    int64_t column_chunk = rest % p->chunk_columns;
    rest /= p->chunk_columns;
    int64_t row_chunk = rest % p->chunk_rows;
    rest /= p->chunk_rows;
    int64_t group = rest % p->groups, n = rest / p->groups;
    int64_t y0 = row_chunk * p->chunk_height, x0 = column_chunk * p->chunk_width;
    int64_t rows = least(p->chunk_height, p->height - y0), columns = least(p->chunk_width, p->width - x0);
    int64_t part_blocks = quotient_up(p->output_blocks, p->parts);
    int64_t first = part * part_blocks, last = least(first + part_blocks, p->output_blocks);
    int64_t taps = p->kernel_height * p->kernel_width, plane = p->input_height * p->input_width * p->pitch;
    int64_t window_block = p->window_height * p->window_width * p->pitch;
    int64_t window_floats = p->copies ? window_block * p->blocks_at_once : 0;
    int64_t chunk_floats = p->plain_output ? p->chunk_height * p->chunk_width * part_blocks * BLOCK : 0;
    float *window = take_scratch((window_floats + chunk_floats) * (int64_t)sizeof *window);
    if (!window)
        return 0;
    float *chunk = window + window_floats;
    tile t;
    memset(&t, 0, sizeof t);
    const int64_t input_row = (p->copies ? p->window_width : p->input_width) * p->pitch;
    const int64_t depth = p->depthwise ? BLOCK : p->pitch * BLOCK; /* weights of a tap */
    const int merged = !p->depthwise && (p->plain_input || p->dilation_x == 1);
    t.merged = merged;
    t.pixel = p->stride_x * p->pitch;
    t.tap_y = p->dilation_y * input_row;
    t.tap_x = p->dilation_x * p->pitch;
    t.weights_tap = depth;
    t.weights_row = p->kernel_width * depth;
    t.weights_input = taps * depth;
    t.weights_output = p->input_blocks * taps * depth;
    t.input_block = p->copies ? window_block : plane;
    t.low = p->low;
    t.high = p->high;
    t.bounded = p->low > -INFINITY || p->high < INFINITY;
    t.length = (merged ? p->kernel_width : 1) * p->pitch;
    t.step = p->plain_input ? p->dilation_x : 1;
    t.taps_x = merged ? 1 : p->kernel_width;
    int64_t result_row = p->plain_output ? p->chunk_width * BLOCK : p->width * BLOCK;
    t.result_block = p->plain_output ? p->chunk_height * result_row : p->height * result_row;
    float *result = p->plain_output ? chunk
                                    : call->result + ((n * p->groups + group) * p->output_blocks + first) * t.result_block
                                          + y0 * result_row + x0 * BLOCK;
    const float *sum = call->sum && !p->plain_output ? call->sum + (result - call->result) : NULL;
    if (call->sum && p->plain_output) {
        memset(chunk, 0, (size_t)chunk_floats * sizeof *chunk);
        copy_plain(p, group, n, first, last, y0, x0, rows, columns, (float *)(uintptr_t)call->sum, chunk, 1);
        sum = chunk;
    }
    const float *image = call->input
                         + (p->depthwise ? n * p->output_blocks + first : (n * p->groups + group) * p->input_blocks)
                               * plane;
    for (int64_t ib = 0; ib < p->input_blocks; ib += p->blocks_at_once) {
        t.blocks = least(p->blocks_at_once, p->input_blocks - ib);
        t.first = ib == 0;
        t.last = ib + t.blocks == p->input_blocks;
        const int64_t top = y0 * p->stride_y - p->top, left = x0 * p->stride_x - p->left;
        t.input = image + ib * plane;
        int64_t corner = top * input_row + left * p->pitch;
        if (p->copies) {
            for (int64_t b = 0; b < t.blocks; b++)
                copy_window(p, image + (ib + b) * plane, top, left,
                            (rows - 1) * p->stride_y + (p->kernel_height - 1) * p->dilation_y + 1,
                            (columns - 1) * p->stride_x + (p->kernel_width - 1) * p->dilation_x + 1,
                            window + b * window_block);
            t.input = window;
            corner = 0;
        }
        if (p->plain_input && taps == 1 && !p->bordered) { /* channels are the values at the only tap */
            t.length = t.blocks;
            t.step = t.input_block;
            t.blocks = 1;
        }
        for (int64_t ob = first, next; ob < last; ob = next) {
            int64_t kind = 0;
            if (!p->depthwise) { /* output blocks shared out evenly */
                kind = quotient_up(last - ob, quotient_up(last - ob, MOST_BLOCKS));
                while (!p->tiles->tile[kind][1])
                    kind--;
            }
            next = ob + (p->depthwise ? 1 : kind);
            const float *weights = call->packed + (group * p->output_blocks + ob) * t.weights_output
                                   + ib * t.weights_input;
            t.start = call->bias ? call->bias + (group * p->output_blocks + ob) * BLOCK : NO_BIAS;
            int64_t inner = p->copies ? columns : least(p->inner_end, x0 + columns) - (p->inner_begin > x0 ? p->inner_begin : x0);
            int64_t at_once = inner > 0 ? best_tile(p->tiles->tile[kind], inner) : 1;
            const tile_function *functions = p->tiles->tile[kind];
            t.result = result + (ob - first) * t.result_block;
            t.sum = sum ? sum + (ob - first) * t.result_block : NULL;
            t.weights = weights;
            t.taps_y = p->kernel_height;
            for (int64_t y = 0; y < rows; y++) {
                int64_t at = corner + y * p->stride_y * input_row, place = y * result_row;
                if (p->copies) {
                    run_pixels(&t, functions, at_once, at, place, columns);
                    continue;
                }
                int64_t first_tap, end_tap;
                taps_inside(top + y * p->stride_y, p->input_height, p->kernel_height, p->dilation_y, &first_tap, &end_tap);
                t.taps_y = end_tap - first_tap;
                t.weights = weights + first_tap * t.weights_row;
                at += first_tap * t.tap_y;
                if (p->bordered)
                    run_row(p, &t, functions, at_once, at, place, x0, columns);
                else
                    run_pixels(&t, functions, at_once, at, place, columns);
            }
        }
    }
    if (p->plain_output)
        copy_plain(p, group, n, first, last, y0, x0, rows, columns, call->result, chunk, 0);
    if (call->epilogue && p->plain_output)
        run_chunk_epilogue(call, (n * p->groups + group) * p->output_channels + first * BLOCK, 1,
                           least(last * BLOCK, p->output_channels) - first * BLOCK, y0, x0, rows, columns);
    else if (call->epilogue)
        run_chunk_epilogue(call, (n * p->groups + group) * p->output_blocks + first, BLOCK, last - first, y0, x0, rows,
                           columns);
    give_scratch(window);
    return 1;
}
