/* Products of matrices: a micro-kernel that keeps a block of sums in registers, and the packing of its right operand.
 *
 * The right operand is packed into panels of PANEL columns, rows one after the other, zeros beyond the last column; a
 * constant one only once. The left operand is read where it lies, whatever its strides. Each sum runs over the depth in
 * order, in runs of DEPTH_RUN elements that are summed apart and then added: its value depends neither on the block of
 * rows and columns that it is computed with, nor on the number of threads.
 */
#if !defined(KERNELS_ONLY)
#if defined(__AVX512F__)
#include <immintrin.h>
typedef __m512 sums;
enum { SUMS = 16, MOST_ROWS = WIDE_ROWS };
#define SUMS_ALL(x) _mm512_set1_ps(x)
#define MASKED_STORES 1 /* the first columns of a vector can be stored alone */
#define SUMS_MULTIPLY_ADD(a, b, c) _mm512_fmadd_ps(a, b, c)
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
typedef __m256 sums;
enum { SUMS = 8, MOST_ROWS = 6 };
#define SUMS_ALL(x) _mm256_set1_ps(x)
#define SUMS_MULTIPLY_ADD(a, b, c) _mm256_fmadd_ps(a, b, c)
#else
typedef float sums __attribute__((vector_size(16)));
enum { SUMS = 4, MOST_ROWS = 6 };
#define SUMS_ALL(x) ((sums){x, x, x, x})
#if defined(__aarch64__)
#include <arm_neon.h>
#define SUMS_MULTIPLY_ADD(a, b, c) ((sums)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#else
#define SUMS_MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif
#endif

enum { PANEL = 2 * SUMS };

static inline sums sums_at(const float *from)
{
    sums x;
    memcpy(&x, from, sizeof x);
    return x;
}

/* What becomes of sums when they are stored: they are scaled, added to what is there, and a bias is added. */
typedef struct {
    float scale;
    int add;
    const float *bias; /* of the first column; NULL for none */
} sum_result;

/* Stores the first `columns` of a vector; f: NULL where they are stored as they are. */
static inline void store_sums(float *to, sums x, int64_t columns, const float *bias, const sum_result *f)
{
#if defined(MASKED_STORES)
    __mmask16 some = (__mmask16)((1u << columns) - 1);
    if (!f) {
        _mm512_mask_storeu_ps(to, some, x);
        return;
    }
    x *= SUMS_ALL(f->scale);
    if (f->add)
        x += _mm512_maskz_loadu_ps(some, to);
    if (bias)
        x += _mm512_maskz_loadu_ps(some, bias);
    _mm512_mask_storeu_ps(to, some, x);
#else
    float all[SUMS];
    if (f)
        x *= SUMS_ALL(f->scale);
    if (columns == SUMS) {
        if (f && f->add)
            x += sums_at(to);
        if (bias)
            x += sums_at(bias);
        memcpy(to, &x, sizeof x);
        return;
    }
    memcpy(all, &x, sizeof x);
    for (int64_t j = 0; j < columns; j++) {
        float sum = f && f->add ? all[j] + to[j] : all[j];
        to[j] = bias ? sum + bias[j] : sum;
    }
#endif
}

/* Adds the products of one element of each row and one row of the panel. */
static inline __attribute__((always_inline)) void add_products(const int rows, const int vectors, sums sum[][2],
                                                               const float *left, int64_t left_row, const float *panel)
{
    sums first = sums_at(panel), second = vectors > 1 ? sums_at(panel + SUMS) : first;
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
        sums x = SUMS_ALL(left[i * left_row]);
        sum[i][0] = SUMS_MULTIPLY_ADD(x, first, sum[i][0]);
        if (vectors > 1)
            sum[i][1] = SUMS_MULTIPLY_ADD(x, second, sum[i][1]);
    }
}

/* rows x `columns` sums over `depth` elements, in one or two vectors a row. */
static inline __attribute__((always_inline)) void sum_block(const int rows, const int vectors, const int far,
                                                            int64_t depth, const float *left, int64_t left_row, int64_t left_step,
                                                            const float *panel, const float *ahead,
                                                            int64_t ahead_step, float *to, int64_t to_row,
                                                            int64_t columns, const sum_result *f)
{
    sums sum[MOST_ROWS][2];
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++)
        sum[i][0] = sum[i][1] = SUMS_ALL(0);
    for (int64_t k = 0; k < depth; k++) {
        if (far) {
            __builtin_prefetch(ahead, 0, 2);
            ahead += ahead_step;
        }
        add_products(rows, vectors, sum, left, left_row, panel);
        panel += PANEL;
        left += left_step;
    }
    int plain = f->scale == 1.0f && !f->add && !f->bias;
#pragma GCC unroll 14
    for (int i = 0; i < rows && plain; i++) {
        float *row = to + i * to_row;
        const int last = (vectors - 1) * SUMS;
        if (vectors > 1)
            store_sums(row, sum[i][0], SUMS, NULL, NULL);
        store_sums(row + last, sum[i][vectors - 1], columns - last, NULL, NULL);
    }
    if (plain)
        return;
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
        float *row = to + i * to_row;
        const int last = (vectors - 1) * SUMS;
        if (vectors > 1)
            store_sums(row, sum[i][0], SUMS, f->bias, f);
        store_sums(row + last, sum[i][vectors - 1], columns - last, f->bias ? f->bias + last : NULL, f);
    }
}

typedef void (*block_function)(int64_t depth, const float *left, int64_t left_row, int64_t left_step,
                               const float *panel, const float *ahead, int64_t ahead_step, float *to, int64_t to_row,
                               int64_t columns, const sum_result *f);

/* far: the panels come from beyond the second-level cache, so the next one is fetched while this one is used. */
#define DEFINE_BLOCK(rows, vectors, far)                                                                               \
    static __attribute__((noinline, aligned(64))) void block_##rows##_##vectors##_##far(                               \
        int64_t depth, const float *left, int64_t left_row, int64_t left_step, const float *panel,                     \
        const float *ahead, int64_t ahead_step, float *to, int64_t to_row, int64_t columns, const sum_result *f)           \
    {                                                                                                                  \
        sum_block(rows, vectors, far, depth, left, left_row, left_step, panel, ahead, ahead_step, to, to_row, columns, \
                  f);                                                                                                  \
    }
#define DEFINE_BLOCKS(rows)                                                                                            \
    DEFINE_BLOCK(rows, 1, 0)                                                                                           \
    DEFINE_BLOCK(rows, 2, 0)                                                                                           \
    DEFINE_BLOCK(rows, 1, 1)                                                                                           \
    DEFINE_BLOCK(rows, 2, 1)

DEFINE_BLOCKS(1)
DEFINE_BLOCKS(2)
DEFINE_BLOCKS(3)
DEFINE_BLOCKS(4)
DEFINE_BLOCKS(5)
DEFINE_BLOCKS(6)
#define FEW_ROWS(kind) block_1_##kind, block_2_##kind, block_3_##kind, block_4_##kind, block_5_##kind, block_6_##kind
#if defined(__AVX512F__) /* as many as 32 registers hold */
DEFINE_BLOCKS(7)
DEFINE_BLOCKS(8)
DEFINE_BLOCKS(9)
DEFINE_BLOCKS(10)
DEFINE_BLOCKS(11)
DEFINE_BLOCKS(12)
DEFINE_BLOCKS(13)
DEFINE_BLOCKS(14)
#define MORE_ROWS(kind)                                                                                                \
    , block_7_##kind, block_8_##kind, block_9_##kind, block_10_##kind, block_11_##kind, block_12_##kind,               \
        block_13_##kind, block_14_##kind
#else
#define MORE_ROWS(kind)
#endif

/* By whether panels are far, vectors of columns (less one) and rows (less one). */
static const block_function SUM_BLOCK[2][2][MOST_ROWS] = {
    {{FEW_ROWS(1_0) MORE_ROWS(1_0)}, {FEW_ROWS(2_0) MORE_ROWS(2_0)}},
    {{FEW_ROWS(1_1) MORE_ROWS(1_1)}, {FEW_ROWS(2_1) MORE_ROWS(2_1)}},
};

#if defined(__AVX512F__)
/* Few rows use what they load so little that loads alone bound them: two panels at once make fewer loads of the left operand,
 * and what comes next is fetched into the first-level cache, from both. */
enum { PAIRED_ROWS = 6, PAIRED_AHEAD = 16 /* rows of a panel */ };

/* rows x 2 PANEL sums; panel_step: floats from one panel to the next. */
static inline __attribute__((always_inline)) void sum_pair(const int rows, int64_t depth, const float *left, int64_t left_row,
                                                           int64_t left_step, const float *panel, int64_t panel_step, float *to,
                                                           int64_t to_row, const sum_result *f)
{
    sums sum[PAIRED_ROWS][4];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
        sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = SUMS_ALL(0);
    for (int64_t k = 0; k < depth; k++) {
        const float *other = panel + panel_step, *ahead = panel + PAIRED_AHEAD * PANEL, *other_ahead = other + PAIRED_AHEAD * PANEL;
        __builtin_prefetch(ahead);
        __builtin_prefetch(ahead + SUMS);
        __builtin_prefetch(other_ahead);
        __builtin_prefetch(other_ahead + SUMS);
        sums a = sums_at(panel), b = sums_at(panel + SUMS), c = sums_at(other), d = sums_at(other + SUMS);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            sums x = SUMS_ALL(left[i * left_row]);
            sum[i][0] = SUMS_MULTIPLY_ADD(x, a, sum[i][0]);
            sum[i][1] = SUMS_MULTIPLY_ADD(x, b, sum[i][1]);
            sum[i][2] = SUMS_MULTIPLY_ADD(x, c, sum[i][2]);
            sum[i][3] = SUMS_MULTIPLY_ADD(x, d, sum[i][3]);
        }
        panel += PANEL;
        left += left_step;
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 4; j++)
            store_sums(to + i * to_row + j * SUMS, sum[i][j], SUMS, f->bias ? f->bias + j * SUMS : NULL, f);
}

typedef void (*pair_function)(int64_t depth, const float *left, int64_t left_row, int64_t left_step, const float *panel,
                              int64_t panel_step, float *to, int64_t to_row, const sum_result *f);
#define DEFINE_PAIR(rows)                                                                                                   \
    static __attribute__((noinline, aligned(64))) void pair_##rows(int64_t depth, const float *left, int64_t left_row,     \
                                                                   int64_t left_step, const float *panel, int64_t panel_step, \
                                                                   float *to, int64_t to_row, const sum_result *f)          \
    {                                                                                                                      \
        sum_pair(rows, depth, left, left_row, left_step, panel, panel_step, to, to_row, f);                                 \
    }
DEFINE_PAIR(1)
DEFINE_PAIR(2)
DEFINE_PAIR(3)
DEFINE_PAIR(4)
DEFINE_PAIR(5)
DEFINE_PAIR(6)
static const pair_function SUM_PAIR[PAIRED_ROWS] = {pair_1, pair_2, pair_3, pair_4, pair_5, pair_6};
#endif

/* Floats that a packed operand takes. */
static inline int64_t packed_floats(int64_t depth, int64_t columns)
{
    return (columns + PANEL - 1) / PANEL * PANEL * depth;
}

/* The sum of products of two rows: up to four vectors of partial sums, in an order that depends on the length alone. */
static inline float dot(const float *left, const float *right, int64_t depth)
{
    sums sum[4] = {SUMS_ALL(0), SUMS_ALL(0), SUMS_ALL(0), SUMS_ALL(0)};
    int64_t k = 0;
    for (; k + 4 * SUMS <= depth; k += 4 * SUMS)
        for (int i = 0; i < 4; i++)
            sum[i] = SUMS_MULTIPLY_ADD(sums_at(left + k + i * SUMS), sums_at(right + k + i * SUMS), sum[i]);
    for (; k + SUMS <= depth; k += SUMS)
        sum[0] = SUMS_MULTIPLY_ADD(sums_at(left + k), sums_at(right + k), sum[0]);
    float rest = 0;
    for (; k < depth; k++)
        rest += left[k] * right[k];
    sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps(sum[0]) + rest;
#else
    float all[SUMS];
    memcpy(all, &sum[0], sizeof all);
    for (int half = SUMS / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            all[i] += all[i + half];
    return all[0] + rest;
#endif
}

/* The same as multiply for few columns, `right_column` elements apart; the elements of each follow each other, as those of the
 * left rows do. */
static void multiply_few_columns(int64_t rows, int64_t columns, int64_t depth, const float *left, int64_t left_row,
                                 const float *right, int64_t right_column, float scale, const float *bias, float *to, int64_t to_row)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            float sum = scale * dot(left + i * left_row, right + j * right_column, depth);
            to[i * to_row + j] = bias ? sum + bias[j] : sum;
        }
}

/* to = scale * left * right + bias: rows x depth times depth x columns, the right operand packed; bias: a value for each
 * column, NULL for none; steps in elements. Where panels are far, the next one is on its way into the second-level cache
 * while one group of rows after the other uses this one. */
static void multiply(int64_t rows, int64_t columns, int64_t depth, const float *left, int64_t left_row,
                     int64_t left_step, const float *panels, int far, float scale, const float *bias, float *to, int64_t to_row)
{
    int64_t groups = (rows + MOST_ROWS - 1) / MOST_ROWS, k = 0;
    do { /* once for an empty depth, whose sums are zero */
        int64_t run = depth - k < DEPTH_RUN ? depth - k : DEPTH_RUN;
        for (int64_t column = 0; column < columns; column += PANEL) {
            const float *panel = panels + column * depth + k * PANEL;
            const float *ahead = column + PANEL < columns ? panel + PANEL * depth
                                 : k + run < depth        ? panels + (k + run) * PANEL
                                                          : panel;
            int64_t count = columns - column < PANEL ? columns - column : PANEL, ahead_step = PANEL / groups;
            sum_result f = {scale, k > 0, bias && k + run == depth ? bias + column : NULL};
#if defined(__AVX512F__)
            if (rows <= PAIRED_ROWS && column + 2 * PANEL <= columns) {
                SUM_PAIR[rows - 1](run, left + k * left_step, left_row, left_step, panel, PANEL * depth, to + column, to_row, &f);
                column += PANEL;
                continue;
            }
#endif
            for (int64_t group = 0, row = 0; group < groups; group++) {
                int64_t end = rows * (group + 1) / groups;
                SUM_BLOCK[far][count > SUMS][end - row - 1](run, left + row * left_row + k * left_step, left_row,
                                                            left_step, panel, ahead + group * run * ahead_step,
                                                            ahead_step, to + row * to_row + column, to_row, count, &f);
                row = end;
            }
        }
        k += run;
    } while (k < depth);
}
#endif
