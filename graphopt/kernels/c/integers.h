/* Sums of products of integers of eight bits, less their zero points, in 32 bits: products of matrices, and convolutions.
 *
 * The sum of (a - za) (b - zb) is the sum of a b, less zb times the sum of a, less za times the sum of b - zb. Left operands are made
 * unsigned and right ones signed, by a difference of 128 that their zero points share: so processors multiply them. Sums are
 * modulo 2^32. All is exact, so the order of sums and the instructions that make them do not matter.
 *
 * A left operand is prepared in rows of whole tiles of the depth, a right one in tiles of 16 columns, of which each holds four elements of
 * the depth together; behind them stand the sums of rows and of columns. Constant ones are prepared once. What is computed of each
 * sum alone (scales, rounding, what follows) is the epilogue of each block (contraction.h).
 */
enum { INTEGER_ROWS = 16, INTEGER_COLUMNS = 16, INTEGER_DEPTH = 64, INTEGER_PAIR = 32 };

/* Strides, dilations, and pads before and after an image, along height and width. */
typedef struct {
    int64_t stride[2], dilation[2], before[2], after[2];
} integer_window;

/* What a generated kernel says of the sums. The left operand is [..., rows, depth], or weights [rows, channels, window]; the right
 * one is [..., depth, columns], or an image [batch, channels, positions]. */
typedef struct {
    int left, right, left_zero, right_zero, to; /* tensors; -1 for zero points that are zero */
    int left_signed, right_signed;
    const integer_window *window; /* NULL for matrices */
    const alternative *epilogue;  /* what is stored instead of the sums; NULL: they are */
    const nest_outputs *stores;   /* of the epilogue */
    int sums;                     /* load of the epilogue that is the sums */
} integer_code;

#if !defined(KERNELS_ONLY)
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

typedef struct {
    const integer_code *code;
    shape left_shape, right_shape, result; /* of the operands and the sums */
    int64_t batches, rows, columns, depth, deep; /* deep: the depth in whole tiles */
    int64_t block_rows, row_blocks, block_columns, column_blocks;
    const unsigned char *left, *right; /* prepared constants; NULL for others */
    int64_t left_zero_step, right_zero_step; /* from one row or column to the next */
    int64_t taps[2], image[2], out_width; /* of a window: its sizes, those of the image, and of the result */
    int64_t right_at, lines_at, sums_at, packed_at, scratch;
    block_epilogue epilogue;
    int as_it_lies; /* the right operand is [depth, columns] in memory: a matrix, or an image under a window of one pixel */
} integer_sums;

static inline int64_t whole_tiles(int64_t count) { return tiles_of(count, INTEGER_COLUMNS) * INTEGER_COLUMNS; }

/* Bytes of `count` prepared rows or columns, and their sums. */
static inline int64_t prepared_bytes(int64_t count, int64_t deep) { return whole_tiles(count) * (deep + (int64_t)sizeof(uint32_t)); }

/* Prepares rows of a left operand. */
static void prepare_rows(unsigned char *to, const unsigned char *from, int64_t rows, int64_t depth, int64_t deep, int is_signed)
{
    const unsigned char flip = is_signed ? 128 : 0;
    uint32_t *sums = (uint32_t *)(void *)(to + whole_tiles(rows) * deep);
    for (int64_t row = 0; row < whole_tiles(rows); row++) {
        int64_t count = row < rows ? depth : 0;
        const unsigned char *x = from + row * depth;
        unsigned char *y = to + row * deep;
        uint32_t sum = 0;
        for (int64_t k = 0; k < count; k++) {
            y[k] = x[k] ^ flip;
            sum += y[k];
        }
        memset(y + count, 0, (size_t)(deep - count));
        sums[row] = sum;
    }
}

/* Elements of an image that one tap of the window meets, for positions [first, first + count). */
static void read_tap(const integer_sums *x, const unsigned char *image, int64_t tap, int64_t first, int64_t count, unsigned char outside,
                     unsigned char *to)
{
    const integer_window *w = x->code->window;
    int64_t window = x->taps[0] * x->taps[1], width = x->image[1];
    int64_t row_tap = tap % window / x->taps[1] * w->dilation[0] - w->before[0];
    int64_t shift = tap % x->taps[1] * w->dilation[1] - w->before[1], step = w->stride[1];
    int64_t column = first % x->out_width, row = first / x->out_width * w->stride[0] + row_tap;
    image += tap / window * x->image[0] * width;
    for (; count > 0; column = 0, row += w->stride[0]) {
        int64_t run = x->out_width - column < count ? x->out_width - column : count;
        int64_t begin = 0, end = 0; /* the positions of this run that meet the image */
        if (row >= 0 && row < x->image[0]) {
            int64_t start = column * step + shift;
            const unsigned char *from = image + row * width + start;
            if (step == 1) {
                begin = clamp(-start, 0, run);
                end = clamp(width - start, begin, run);
                memcpy(to + begin, from + begin, (size_t)(end - begin));
            } else {
                begin = start >= 0 ? 0 : clamp((-start + step - 1) / step, 0, run);
                end = start >= width ? begin : clamp((width - 1 - start) / step + 1, begin, run);
                if (step == 2)
                    for (int64_t i = begin; i < end; i++)
                        to[i] = from[2 * i];
                else
                    for (int64_t i = begin; i < end; i++)
                        to[i] = from[i * step];
            }
        }
        if (begin > 0)
            memset(to, outside, (size_t)begin);
        if (end < run)
            memset(to + end, outside, (size_t)(run - end));
        to += run;
        count -= run;
    }
}

/* Four lines of 16 elements as 16 times four elements. */
static inline void interleave(unsigned char *to, const unsigned char *const lines[4], int64_t at, unsigned char flip)
{
#if defined(__SSE2__)
    const __m128i flips = _mm_set1_epi8((char)flip);
    __m128i x[4];
    for (int i = 0; i < 4; i++)
        x[i] = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(const void *)(lines[i] + at)), flips);
    __m128i low[2] = {_mm_unpacklo_epi8(x[0], x[1]), _mm_unpacklo_epi8(x[2], x[3])};
    __m128i high[2] = {_mm_unpackhi_epi8(x[0], x[1]), _mm_unpackhi_epi8(x[2], x[3])};
    __m128i *all = (__m128i *)(void *)to;
    _mm_storeu_si128(all, _mm_unpacklo_epi16(low[0], low[1]));
    _mm_storeu_si128(all + 1, _mm_unpackhi_epi16(low[0], low[1]));
    _mm_storeu_si128(all + 2, _mm_unpacklo_epi16(high[0], high[1]));
    _mm_storeu_si128(all + 3, _mm_unpackhi_epi16(high[0], high[1]));
#else
    for (int j = 0; j < INTEGER_COLUMNS; j++)
        for (int i = 0; i < 4; i++)
            to[4 * j + i] = lines[i][at + j] ^ flip;
#endif
}

typedef uint32_t integer_vector __attribute__((vector_size(64)));
typedef int32_t signed_vector __attribute__((vector_size(64)));

/* Sums of 16 prepared columns. */
static inline void add_prepared(const unsigned char *columns, int64_t deep, uint32_t *to)
{
    signed_vector sum = {0};
    integer_vector four;
    for (int64_t k = 0; k < deep; k += 4) {
        memcpy(&four, columns + k * INTEGER_COLUMNS, sizeof four);
        sum += ((signed_vector)(four << 24) >> 24) + ((signed_vector)(four << 16) >> 24) + ((signed_vector)(four << 8) >> 24)
               + ((signed_vector)four >> 24);
    }
    memcpy(to, &sum, sizeof sum);
}

/* Prepares columns [column, column + columns) of a right operand. lines: room for four times as many bytes, in whole tiles; outside: what
 * stands around an image. */
static void prepare_columns(const integer_sums *x, unsigned char *to, const unsigned char *from, int64_t column, int64_t columns,
                            unsigned char outside, unsigned char *lines)
{
    const unsigned char flip = x->code->right_signed ? 0 : 128;
    const int64_t whole = whole_tiles(columns), used = tiles_of(x->depth, 4) * 4, in_place = x->as_it_lies && whole == columns;
    uint32_t *sums = (uint32_t *)(void *)(to + whole * x->deep);
    if (!in_place)
        memset(lines, flip, (size_t)(4 * whole)); /* zeros, once they are signed */
    for (int64_t k = 0; k < used; k += 4) {
        const unsigned char *line[4];
        for (int64_t i = 0; i < 4; i++) {
            unsigned char *copy = lines + i * whole;
            const unsigned char *there = from + (k + i) * x->columns + column;
            line[i] = in_place && k + i < x->depth ? there : copy;
            if (k + i >= x->depth)
                memset(copy, flip, (size_t)columns);
            else if (!x->as_it_lies)
                read_tap(x, from, k + i, column, columns, outside, copy);
            else if (!in_place)
                memcpy(copy, there, (size_t)columns);
        }
        for (int64_t j = 0; j < whole; j += INTEGER_COLUMNS)
            interleave(to + j * x->deep + k * INTEGER_COLUMNS, line, j, flip);
    }
    for (int64_t j = 0; j < whole; j += INTEGER_COLUMNS) {
        memset(to + j * x->deep + used * INTEGER_COLUMNS, 0, (size_t)((x->deep - used) * INTEGER_COLUMNS));
        add_prepared(to + j * x->deep, used, sums + j);
    }
}

typedef int32_t integer_tiles[2][2][INTEGER_ROWS][INTEGER_COLUMNS];

/* Sums of up to two tiles of rows and of columns, one vector at a time. */
static void sum_integers(int row_tiles, int column_tiles, int64_t deep, const unsigned char *left, const unsigned char *right,
                         integer_tiles to)
{
    for (int r = 0; r < row_tiles * INTEGER_ROWS; r++)
        for (int c = 0; c < column_tiles; c++) {
            const signed char *y = (const signed char *)right + c * INTEGER_COLUMNS * deep;
            const unsigned char *x = left + r * deep;
            int32_t sum[INTEGER_COLUMNS] = {0};
            for (int64_t k = 0; k < deep; k += 4, y += 4 * INTEGER_COLUMNS)
                for (int j = 0; j < INTEGER_COLUMNS; j++) /* wraps where the sums of the definition do */
                    sum[j] = (int32_t)((uint32_t)sum[j]
                                       + (uint32_t)(x[k] * y[4 * j] + x[k + 1] * y[4 * j + 1] + x[k + 2] * y[4 * j + 2]
                                                    + x[k + 3] * y[4 * j + 3]));
            memcpy(to[r / INTEGER_ROWS][c][r % INTEGER_ROWS], sum, sizeof sum);
        }
}

#if defined(MATRIX_UNIT)
enum { INTEGER_RUN = 8 }; /* rows at a time */

static inline __attribute__((always_inline, target("avx512vnni"))) void
dot_rows(const int column_tiles, int64_t deep, const unsigned char *left, const unsigned char *right, int first, integer_tiles to)
{
    __m512i sum[INTEGER_RUN][2];
#pragma GCC unroll 8
    for (int r = 0; r < INTEGER_RUN; r++)
        sum[r][0] = sum[r][1] = _mm512_setzero_si512();
    left += first * deep;
    for (int64_t k = 0; k < deep; k += 4) {
        __m512i y = _mm512_loadu_si512(right + k * INTEGER_COLUMNS);
        __m512i z = column_tiles > 1 ? _mm512_loadu_si512(right + (deep + k) * INTEGER_COLUMNS) : y;
#pragma GCC unroll 8
        for (int r = 0; r < INTEGER_RUN; r++) {
            int32_t four;
            memcpy(&four, left + r * deep + k, sizeof four);
            __m512i x = _mm512_set1_epi32(four);
            sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], x, y);
            if (column_tiles > 1)
                sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], x, z);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < INTEGER_RUN; r++)
        for (int c = 0; c < column_tiles; c++)
            _mm512_storeu_si512(to[(first + r) / INTEGER_ROWS][c][(first + r) % INTEGER_ROWS], sum[r][c]);
}

/* The same by instructions that multiply and add four elements (AVX512-VNNI). */
static __attribute__((noinline, target("avx512vnni"))) void dot_integers(int rows, int column_tiles, int64_t deep,
                                                                         const unsigned char *left, const unsigned char *right,
                                                                         integer_tiles to)
{
    for (int first = 0; first < rows; first += INTEGER_RUN)
        if (column_tiles > 1)
            dot_rows(2, deep, left, right, first, to);
        else
            dot_rows(1, deep, left, right, first, to);
}

/* The same by the matrix unit, which then holds whole tiles. */
static inline __attribute__((always_inline, target("amx-tile,amx-int8"))) void
unit_tiles(const int row_tiles, const int column_tiles, int64_t deep, const unsigned char *left, const unsigned char *right, integer_tiles to)
{
    const int64_t below = INTEGER_ROWS * deep, beside = INTEGER_COLUMNS * deep;
    MEMORY_SETTLED();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < deep; k += INTEGER_DEPTH) {
        _tile_loadd(4, left + k, deep);
        _tile_loadd(6, right + k * INTEGER_COLUMNS, 64);
        _tile_dpbusd(0, 4, 6);
        if (column_tiles > 1) {
            _tile_loadd(7, right + beside + k * INTEGER_COLUMNS, 64);
            _tile_dpbusd(1, 4, 7);
        }
        if (row_tiles > 1) {
            _tile_loadd(5, left + below + k, deep);
            _tile_dpbusd(2, 5, 6);
            if (column_tiles > 1)
                _tile_dpbusd(3, 5, 7);
        }
    }
    _tile_stored(0, to[0][0], 64);
    _tile_stored(1, to[0][1], 64);
    _tile_stored(2, to[1][0], 64);
    _tile_stored(3, to[1][1], 64);
    MEMORY_SETTLED();
}

static __attribute__((noinline, target("amx-tile,amx-int8"))) void unit_integers(int row_tiles, int column_tiles, int64_t deep,
                                                                                 const unsigned char *left, const unsigned char *right,
                                                                                 integer_tiles to)
{
    if (row_tiles > 1 && column_tiles > 1)
        unit_tiles(2, 2, deep, left, right, to);
    else if (row_tiles > 1)
        unit_tiles(2, 1, deep, left, right, to);
    else if (column_tiles > 1)
        unit_tiles(1, 2, deep, left, right, to);
    else
        unit_tiles(1, 1, deep, left, right, to);
}

static int has_integer_unit(void)
{
    unsigned a, b, c, d;
    return has_matrix_unit() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> 25 & 1; /* AMX-INT8 */
}

static int has_integer_vectors(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && c >> 11 & 1; /* AVX512-VNNI */
}
#endif

enum { BY_INTEGERS, BY_VECTORS, BY_UNIT };

/* What the processor has to sum integers by. */
static int integer_means(void)
{
#if defined(MATRIX_UNIT)
    static int known = -1;
    int found = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (found < 0) {
        found = has_integer_unit() ? BY_UNIT : has_integer_vectors() ? BY_VECTORS : BY_INTEGERS;
        __atomic_store_n(&known, found, __ATOMIC_RELAXED);
    }
    return found;
#else
    return BY_INTEGERS;
#endif
}

/* The number of an operand's matrix that belongs to one of the result's: sizes before the last two are broadcast. */
static int64_t matrix_of(const shape *of, const shape *result, int64_t batch)
{
    int64_t number = 0, step = 1;
    for (int k = result->rank - 3, own = of->rank - 3; k >= 0; k--, own--) {
        int64_t at = batch % result->size[k];
        batch /= result->size[k];
        if (own >= 0) {
            number += of->size[own] == 1 ? 0 : at * step;
            step *= of->size[own];
        }
    }
    return number;
}

/* A zero point as the prepared operand has it. */
static inline int32_t zero_point(const unsigned char *zero, int is_signed, int is_left)
{
    int32_t value = !zero ? 0 : is_signed ? (signed char)*zero : *zero;
    return is_left ? value + (is_signed ? 128 : 0) : value - (is_signed ? 0 : 128);
}

/* Zero points of an operand, for all of it or for each row or column; none: NULL. */
typedef struct {
    const unsigned char *of;
    int64_t step;
} zero_points;

/* Stores sums of rows x columns with what zero points take away; left_zeros: of the first row, right_zeros: of the first column. */
static void store_integers(const integer_sums *x, const integer_tiles sums, int64_t rows, int64_t columns, const zero_points *left_zeros,
                           const uint32_t *row_sums, const uint32_t *column_sums, const zero_points *right_zeros, int32_t *to,
                           int64_t to_row)
{
    for (int64_t c = 0; c < columns; c += INTEGER_COLUMNS) {
        integer_vector column_sum, zero;
        int64_t count = columns - c < INTEGER_COLUMNS ? columns - c : INTEGER_COLUMNS;
        memcpy(&column_sum, column_sums + c, sizeof column_sum);
        if (right_zeros->of && right_zeros->step)
            for (int64_t j = 0; j < INTEGER_COLUMNS; j++)
                zero[j] = (uint32_t)zero_point(right_zeros->of + (j < count ? c + j : 0), x->code->right_signed, 0);
        else
            zero = (integer_vector){0} + (uint32_t)zero_point(right_zeros->of, x->code->right_signed, 0);
        column_sum -= (uint32_t)x->depth * zero;
        /* the left zero point times the sum of b - zb */
        integer_vector less = (uint32_t)zero_point(left_zeros->of, x->code->left_signed, 1) * column_sum;
        const int each = left_zeros->of && left_zeros->step;
        int32_t *result = to + c;
        for (uint64_t r = 0; r < (uint64_t)rows; r++, result += to_row) {
            integer_vector sum;
            if (each)
                less = (uint32_t)zero_point(left_zeros->of + r, x->code->left_signed, 1) * column_sum;
            memcpy(&sum, sums[r / INTEGER_ROWS][c / INTEGER_COLUMNS][r % INTEGER_ROWS], sizeof sum);
            sum -= less + zero * row_sums[r];
            if (count == INTEGER_COLUMNS)
                memcpy(result, &sum, sizeof sum);
            else
                memcpy(result, &sum, (size_t)count * sizeof(int32_t));
        }
    }
}

/* Operands that are prepared in the scratch; -1 for none. */
typedef struct {
    unsigned char *scratch;
    int64_t left_of, right_of;
} integer_state;

/* One unit: a block of rows and columns of one matrix. */
static void sum_integer_block(const integer_sums *x, int64_t unit, integer_state *state, int means, void *const *tensors)
{
    const integer_code *code = x->code;
    int64_t each = x->row_blocks * x->column_blocks, batch = unit / each, at = unit % each;
    int64_t row_block = x->right ? at / x->column_blocks : at % x->row_blocks;
    int64_t column_block = x->right ? at % x->column_blocks : at / x->row_blocks;
    int64_t row = row_block * x->block_rows, column = column_block * x->block_columns;
    int64_t rows = x->rows - row < x->block_rows ? x->rows - row : x->block_rows;
    int64_t columns = x->columns - column < x->block_columns ? x->columns - column : x->block_columns;
    const unsigned char *left_zero = code->left_zero < 0 ? NULL : tensors[code->left_zero];
    const unsigned char *right_zero = code->right_zero < 0 ? NULL : tensors[code->right_zero];
    const unsigned char *left = x->left, *right = x->right;
    const uint32_t *row_sums, *column_sums;
    if (left) {
        row_sums = (const uint32_t *)(const void *)(left + whole_tiles(x->rows) * x->deep) + row;
        left += row * x->deep;
    } else {
        if (state->left_of != batch * x->row_blocks + row_block) {
            int64_t first = code->window ? 0 : matrix_of(&x->left_shape, &x->result, batch) * x->rows;
            const unsigned char *from = (const unsigned char *)tensors[code->left] + (first + row) * x->depth;
            prepare_rows(state->scratch, from, rows, x->depth, x->deep, code->left_signed);
            state->left_of = batch * x->row_blocks + row_block;
        }
        left = state->scratch;
        row_sums = (const uint32_t *)(const void *)(left + whole_tiles(rows) * x->deep);
    }
    if (right) {
        column_sums = (const uint32_t *)(const void *)(right + whole_tiles(x->columns) * x->deep) + column;
        right += column * x->deep;
    } else {
        unsigned char *to = state->scratch + x->right_at;
        if (state->right_of != batch * x->column_blocks + column_block) {
            int64_t size = elements(&x->right_shape) / (code->window ? x->right_shape.size[0] : 1);
            int64_t from = code->window ? batch * size : matrix_of(&x->right_shape, &x->result, batch) * x->depth * x->columns;
            prepare_columns(x, to, (const unsigned char *)tensors[code->right] + from, column, columns, right_zero ? *right_zero : 0,
                            state->scratch + x->lines_at);
            state->right_of = batch * x->column_blocks + column_block;
        }
        right = to;
        column_sums = (const uint32_t *)(const void *)(right + whole_tiles(columns) * x->deep);
    }
    integer_tiles sums __attribute__((aligned(64)));
    int32_t *to = x->epilogue.what ? (int32_t *)(void *)(state->scratch + x->sums_at)
                                   : (int32_t *)tensors[code->to] + (batch * x->rows + row) * x->columns + column;
    int64_t to_row = x->epilogue.what ? columns : x->columns;
    for (int64_t c = 0; c < columns; c += INTEGER_PAIR) {
        int64_t width = columns - c < INTEGER_PAIR ? columns - c : INTEGER_PAIR;
        zero_points right_zeros = {right_zero ? right_zero + (column + c) * x->right_zero_step : NULL, x->right_zero_step};
        for (int64_t r = 0; r < rows; r += INTEGER_PAIR) {
            int64_t height = rows - r < INTEGER_PAIR ? rows - r : INTEGER_PAIR;
            int row_tiles = height > INTEGER_ROWS ? 2 : 1, column_tiles = width > INTEGER_COLUMNS ? 2 : 1;
#if defined(MATRIX_UNIT)
            if (means == BY_UNIT)
                unit_integers(row_tiles, column_tiles, x->deep, left + r * x->deep, right + c * x->deep, sums);
            else if (means == BY_VECTORS)
                dot_integers((int)height, column_tiles, x->deep, left + r * x->deep, right + c * x->deep, sums);
            else
#endif
                sum_integers(row_tiles, column_tiles, x->deep, left + r * x->deep, right + c * x->deep, sums);
            zero_points left_zeros = {left_zero ? left_zero + (row + r) * x->left_zero_step : NULL, x->left_zero_step};
            store_integers(x, sums, height, width, &left_zeros, row_sums + r, column_sums + c, &right_zeros, to + r * to_row + c,
                           to_row);
        }
    }
    if (x->epilogue.what)
        run_epilogue(&x->epilogue, batch, row, rows, column, columns, to, state->scratch + x->packed_at, tensors);
    (void)means;
}

static const char *run_integers(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors)
{
    const integer_sums *x = s->state;
    int means = integer_means();
    integer_state state = {take_scratch(x->scratch), -1, -1};
    (void)p;
    if (!state.scratch)
        return NO_MEMORY;
#if defined(MATRIX_UNIT)
    unit_shapes before;
    if (means == BY_UNIT)
        take_matrix_unit(&before);
#endif
    for (int64_t unit = begin; unit < end; unit++)
        sum_integer_block(x, unit, &state, means, tensors);
#if defined(MATRIX_UNIT)
    if (means == BY_UNIT)
        give_matrix_unit(&before);
#endif
    give_scratch(state.scratch);
    return NULL;
}

/* A constant operand, prepared by this plan or one before it; NULL for lack of memory. */
static const unsigned char *prepare_constant(plan *p, const integer_sums *x, int is_left, const unsigned char *data)
{
    int64_t count = is_left ? x->rows : x->columns, bytes = prepared_bytes(count, x->deep);
    packed_operand wanted;
    memset(&wanted, 0, sizeof wanted);
    wanted.tensor = is_left ? x->code->left : x->code->right;
    wanted.packing = is_left ? AS_INTEGER_ROWS : AS_INTEGER_COLUMNS;
    wanted.depth = x->depth;
    wanted.columns = count;
    const unsigned char *before = packed_before(p, &wanted);
    if (before)
        return before;
    unsigned char *to = take_aligned(bytes), *lines = take_aligned(4 * whole_tiles(count));
    if (to && lines && is_left)
        prepare_rows(to, data, count, x->depth, x->deep, x->code->left_signed);
    else if (to && lines)
        prepare_columns(x, to, data, 0, count, 0, lines);
    void *memory = to && lines ? share(to, bytes) : (free(to), NULL);
    free(lines);
    return keep_packed(p, &wanted, memory);
}

enum { INTEGER_BLOCK_ROWS = 64, INTEGER_MATRIX_ROWS = 256, INTEGER_WIDEST = 1024, INTEGER_BLOCK_BYTES = 1 << 17, INTEGER_SUM_BYTES = 1 << 18 };

/* Cuts the sums into blocks, the units of the step. */
static void cut_integers(integer_sums *x)
{
    int64_t most_rows = x->left ? x->rows : x->right ? INTEGER_BLOCK_ROWS : INTEGER_MATRIX_ROWS;
    int64_t pairs = tiles_of(x->columns, INTEGER_PAIR), widest = INTEGER_WIDEST / INTEGER_PAIR;
    if (!x->right)
        widest = clamp(INTEGER_BLOCK_BYTES / (x->deep + 1) / INTEGER_PAIR, 1, widest);
    x->block_rows = x->rows < most_rows ? x->rows : most_rows;
    if (x->epilogue.what)
        widest = clamp(INTEGER_SUM_BYTES / (int64_t)sizeof(int32_t) / x->block_rows / INTEGER_PAIR, 1, widest);
    x->row_blocks = tiles_of(x->rows, x->block_rows);
    x->column_blocks = tiles_of(pairs, widest);
    if (x->batches * x->row_blocks * x->column_blocks < LEAST_UNITS && x->rows * x->columns * x->depth > LEAST_SUMS && pairs > 1)
        x->column_blocks = LEAST_UNITS;
    x->block_columns = tiles_of(pairs, x->column_blocks) * INTEGER_PAIR;
    x->column_blocks = tiles_of(x->columns, x->block_columns);
    x->right_at = x->left ? 0 : (prepared_bytes(x->block_rows, x->deep) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    x->lines_at = x->right_at + (x->right ? 0 : prepared_bytes(x->block_columns, x->deep));
    x->sums_at = (x->lines_at + (x->right ? 0 : 4 * x->block_columns) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    x->packed_at = x->sums_at + (x->epilogue.what ? x->block_rows * x->block_columns * (int64_t)sizeof(int32_t) : 0);
    x->scratch = x->packed_at + (x->epilogue.what ? epilogue_buffer(&x->epilogue) : 0);
}

static int is_one_matrix(const shape *s)
{
    for (int k = 0; k < s->rank - 2; k++)
        if (s->size[k] != 1)
            return 0;
    return 1;
}
#endif

/* Plans sums of products of integers. zero: shapes of the zero points, NULL where they are absent. */
SHARED const char *plan_integers(plan *p, const integer_code *code, const shape *result, const shape *left, const shape *right, const shape *left_zero, const shape *right_zero, const void *frame)
{
    int64_t columns = result->size[result->rank - 1], left_zeros = left_zero ? elements(left_zero) : 1, right_zeros = right_zero ? elements(right_zero) : 1;
    if ((left_zeros != 1 && !(code->window && left_zeros == result->size[1])) || (right_zeros != 1 && (code->window || right_zeros != columns)))
        return "zero points that are neither one for all nor one for each channel";
    if (elements(result) == 0)
        return NULL;
    integer_sums *x = calloc(1, sizeof *x);
    if (!x)
        return NO_MEMORY;
    *x = (integer_sums){.code = code, .left_shape = *left, .right_shape = *right, .result = *result, .batches = 1, .rows = result->size[result->rank - 2], .columns = columns, .depth = left->size[left->rank - 1], .left_zero_step = left_zeros > 1, .right_zero_step = right_zeros > 1};
    const unsigned char *left_data = constant_of(p, code->left), *right_data = constant_of(p, code->right);
    int one_right = !code->window && is_one_matrix(right), batch = result->rank - 2;
    x->epilogue = (block_epilogue){.what = code->epilogue, .to = code->stores, .product = code->sums, .rows = x->rows, .columns = columns};
    const char *error = place_epilogue(p, &x->epilogue, frame, matrix_domain(result, result->size, batch), code->window ? 1 : batch);
    if (error) {
        free(x);
        return error;
    }
    if (code->window) {
        int flat = left->rank == 3; /* one dimension */
        x->batches = result->size[0];
        x->rows = result->size[1];
        x->epilogue.rows = x->rows;
        x->epilogue.columns = x->columns = elements(result) / (x->batches * x->rows);
        x->depth = elements(left) / x->rows;
        x->taps[0] = flat ? 1 : left->size[2];
        x->taps[1] = left->size[left->rank - 1];
        x->image[0] = flat ? 1 : right->size[2];
        x->image[1] = right->size[right->rank - 1];
        x->out_width = columns;
        const integer_window *w = code->window;
        int64_t around = w->before[0] | w->before[1] | w->after[0] | w->after[1];
        x->as_it_lies = x->taps[0] * x->taps[1] == 1 && w->stride[0] == 1 && w->stride[1] == 1 && around == 0;
    } else {
        x->as_it_lies = 1;
        for (int k = 0; k < result->rank - 2; k++)
            x->batches *= result->size[k];
        if (one_right && elements(left) == x->batches * x->rows * x->depth) { /* rows of all are rows of one product */
            fold_epilogue(&x->epilogue, x->batches);
            x->rows *= x->batches;
            x->batches = 1;
        }
    }
    x->deep = tiles_of(x->depth, INTEGER_DEPTH) * INTEGER_DEPTH;
    int fails = 0;
    if (left_data && (code->window || (x->batches == 1 && is_one_matrix(left))))
        fails |= !(x->left = prepare_constant(p, x, 1, left_data));
    if (right_data && one_right)
        fails |= !(x->right = prepare_constant(p, x, 0, right_data));
    if (fails) {
        free(x);
        return NO_MEMORY;
    }
    cut_integers(x);
    int64_t units = x->batches * x->row_blocks * x->column_blocks;
    int64_t cost = x->depth / 64 + (x->epilogue.what ? code->stores->cost : 1);
    return add_step(p, (step){run_integers, free, x, units, x->batches * x->rows * x->columns * cost, 0});
}

/* The shape of a convolution's sums: weights [rows, channels, window], image [batch, channels, positions]; 0 where they do not go together. */
SHARED int shape_integer_window(const integer_window *w, const shape *weights, const shape *image, shape *result)
{
    if (weights->rank != image->rank || (image->rank != 3 && image->rank != 4) || weights->size[1] != image->size[1])
        return 0;
    *result = *image;
    result->size[1] = weights->size[0];
    for (int k = 2, axis = 4 - image->rank; k < image->rank; k++, axis++) {
        int64_t span = (weights->size[k] - 1) * w->dilation[axis] + 1;
        int64_t room = image->size[k] + w->before[axis] + w->after[axis] - span;
        if (weights->size[k] < 1)
            return 0;
        result->size[k] = room < 0 ? 0 : room / w->stride[axis] + 1;
    }
    return 1;
}
