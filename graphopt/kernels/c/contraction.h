/* Products of matrices: a micro-kernel that keeps a block of sums in registers, and the packing of its right operand.
 *
 * The right operand is packed into panels of PANEL columns, rows one after the other, zeros beyond the last column; a
 * constant one only once. The left operand is read where it lies, whatever its strides. Each sum runs over the depth in
 * order, in runs of DEPTH_RUN elements that are summed apart and then added: its value depends neither on the block of
 * rows and columns that it is computed with, nor on the number of threads.
 */
/* What a generated kernel says of a contraction: its tensors, and where its operands lie in them. */
typedef struct {
    int left, right, to;
    place_function place_left, place_right;
    float scale;                 /* of the products */
    int bias;                    /* tensor of what is added to each row of them; -1 for none */
    place_function place_bias;
    const alternative *epilogue; /* what is stored instead of the products; NULL: they are */
    const nest_outputs *stores;  /* of the epilogue */
    int product;                 /* load of the epilogue that is the product */
} contraction_code;

#if !defined(KERNELS_ONLY) /* what follows but the last two functions is called by the library alone */
#if defined(__AVX512F__)
#include <immintrin.h>
typedef __m512 sums;
enum { SUMS = 16, MOST_ROWS = 14 };
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

enum { PANEL = 2 * SUMS, DEPTH_RUN = 256 };

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

/* Floats that a packed operand takes. */
static inline int64_t packed_floats(int64_t depth, int64_t columns)
{
    return (columns + PANEL - 1) / PANEL * PANEL * depth;
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

/* ---------------------------------------------------------------- where matrices lie */

/* One dimension of a matrix in memory: nested loops, outermost first, with steps in elements. */
typedef struct {
    int loops;
    int64_t count[MAX_LOOPS], step[MAX_LOOPS];
} extent;

/* A batch of matrices in a tensor. */
typedef struct {
    int64_t base;
    extent batch, row, column;
} matrix;

static inline int64_t offset_of(const extent *e, int64_t i)
{
    int64_t offset = 0;
    if (e->loops <= 1) /* as it mostly is: spares divisions */
        return e->loops ? i * e->step[0] : 0;
    for (int k = e->loops - 1; k >= 0; k--) {
        offset += i % e->count[k] * e->step[k];
        i /= e->count[k];
    }
    return offset;
}

/* The step from one index to the next, where it is always the same. */
static inline int even_step(const extent *e, int64_t *step)
{
    *step = e->loops ? e->step[0] : 0;
    return e->loops <= 1;
}

/* How many indices from i on are one step apart. */
static inline int64_t even_run(const extent *e, int64_t i, int64_t most)
{
    if (e->loops <= 1)
        return most;
    int64_t count = e->count[e->loops - 1], left = count - i % count;
    return left < most ? left : most;
}

static void add_loop(extent *e, int64_t count, int64_t step)
{
    int last = e->loops - 1;
    if (count == 1)
        return;
    if (last >= 0 && e->step[last] == step * count) {
        e->count[last] *= count;
        e->step[last] = step;
        return;
    }
    e->count[e->loops] = count;
    e->step[e->loops++] = step;
}

/* A box of loops over a batch of matrices of `of`, broadcast to `batch` dimensions of sizes `size`. */
static domain matrix_domain(const shape *of, const int64_t *size, int batch)
{
    domain d;
    memset(&d, 0, sizeof d);
    d.loops = batch + 2;
    int64_t step = 1;
    for (int k = d.loops - 1, from = of->rank - 1; k >= 0; k--, from--) {
        int64_t own = from < 0 ? 1 : of->size[from];
        d.count[k] = k < batch ? size[k] : own;
        d.step[k] = own == 1 ? 0 : step;
        step *= own;
    }
    return d;
}

/* Finds how matrices lie in the tensors that `place` leads to; 0 where that is not one box of loops. */
static int place_matrices(place_function place, const void *frame, domain d, int batch, load_place *load, int loads,
                          matrix *found)
{
    affine store;
    int group[MAX_LOOPS]; /* 0: over the batch, 1: rows, 2: columns */
    for (int k = 0; k < d.loops; k++) {
        group[k] = k < batch ? 0 : 1 + k - batch;
        if (d.count[k] == 0)
            return 0;
    }
    verdict v;
    while ((v = place(&d, frame, &store, load)) == REFINE) {
        memmove(&group[d.at_loop + 1], &group[d.at_loop], (size_t)(d.loops - d.at_loop) * sizeof group[0]);
        refine(&d);
    }
    if (v != DONE)
        return 0;
    memset(found, 0, (size_t)loads * sizeof *found);
    for (int i = 0; i < loads; i++) {
        extent *to[3] = {&found[i].batch, &found[i].row, &found[i].column};
        found[i].base = load[i].at.base;
        for (int k = 0; k < d.loops; k++)
            add_loop(to[group[k]], d.count[k], load[i].at.step[k]);
    }
    return 1;
}

static int is_fixed(const extent *e)
{
    for (int k = 0; k < e->loops; k++)
        if (e->step[k] != 0)
            return 0;
    return 1;
}

/* Makes the batch part of the rows. */
static void fold_batch(matrix *m)
{
    extent rows = m->batch;
    for (int k = 0; k < m->row.loops; k++)
        add_loop(&rows, m->row.count[k], m->row.step[k]);
    m->row = rows;
    m->batch.loops = 0;
}

/* Packs columns [column, column + columns) of a matrix of `depth` rows for `multiply`. */
static void pack_panels(float *to, const float *from, const extent *row, const extent *columns_extent, int64_t depth,
                        int64_t column, int64_t columns)
{
    int64_t row_step = 0, column_step = 0;
    int even = even_step(row, &row_step) && even_step(columns_extent, &column_step);
    for (int64_t first = 0; first < columns; first += PANEL) {
        int64_t count = columns - first < PANEL ? columns - first : PANEL;
        if (count < PANEL)
            memset(to, 0, (size_t)(depth * PANEL) * sizeof(float));
        if (even) {
            pack(sizeof(float), to, PANEL, 1, from + (column + first) * column_step, row_step, column_step, depth, count);
        } else {
            for (int64_t k = 0; k < depth; k++)
                for (int64_t j = 0; j < count; j++)
                    to[k * PANEL + j] = from[offset_of(row, k) + offset_of(columns_extent, column + first + j)];
        }
        to += depth * PANEL;
    }
}

/* ---------------------------------------------------------------- a contraction as a step */

/* A constant right operand in panels. Only contractions keep anything. */
typedef struct {
    kept as;
    int tensor;
    int64_t depth, columns;
    matrix from;
} packed_operand;

/* State of a step that is a contraction. */
typedef struct {
    const contraction_code *code;
    int64_t batches, rows, columns, depth;
    int64_t block_rows, row_blocks, block_columns, column_blocks;
    matrix left, right, bias, load[MAX_OPERANDS]; /* load: of the epilogue */
    const float *panels;                    /* of a constant right operand; NULL for others */
    /* bytes into the scratch: the right operand in panels, a copy of rows of the left one (-1 where they are read in
     * place), the products for an epilogue, what it packs */
    int64_t left_at, products_at, packed_at, scratch;
} contraction;

enum { BLOCK_ROWS = 5 * MOST_ROWS, PACKED_BLOCK_ROWS = 256, BLOCK_FLOATS = 1 << 17, LEAST_UNITS = 2, LEAST_SUMS = 1 << 20, SHORT_ROW = 128, FAR_BYTES = 1 << 19 };

/* The right operand in panels if it is constant, made by this plan or one before it. */
static const char *pack_constant(plan *p, const contraction_code *code, contraction *x)
{
    const float *data = p->constant && code->right < p->inputs ? p->constant[code->right] : NULL;
    if (!data || !is_fixed(&x->right.batch))
        return NULL;
    int64_t bytes = packed_floats(x->depth, x->columns) * (int64_t)sizeof(float);
    p->constant_bytes += bytes;
    for (kept *k = __atomic_load_n(p->made, __ATOMIC_ACQUIRE); k; k = k->next) {
        const packed_operand *o = (const packed_operand *)k;
        if (o->tensor == code->right && o->depth == x->depth && o->columns == x->columns
            && memcmp(&o->from, &x->right, sizeof x->right) == 0) { /* both were zeroed before they were filled */
            x->panels = o->as.memory;
            return NULL;
        }
    }
    packed_operand *o = malloc(sizeof *o);
    float *panels = take_aligned(bytes);
    if (!o || !panels) {
        free(o);
        free(panels);
        return NO_MEMORY;
    }
    o->as.memory = panels;
    o->tensor = code->right;
    o->depth = x->depth;
    o->columns = x->columns;
    o->from = x->right;
    pack_panels(panels, data + x->right.base, &x->right.row, &x->right.column, x->depth, 0, x->columns);
    o->as.next = __atomic_load_n(p->made, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p->made, &o->as.next, &o->as, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
    x->panels = panels;
    return NULL;
}

/* Copies rows [row, row + rows) of the left operand next to each other. */
static void copy_rows(const extent *row_extent, const extent *depth_extent, const float *from, int64_t row, int64_t rows,
                      int64_t depth, float *to)
{
    for (int64_t done = 0; done < rows;) {
        int64_t run = even_run(row_extent, row + done, rows - done);
        int64_t row_step = row_extent->loops ? row_extent->step[row_extent->loops - 1] : 0;
        const float *first = from + offset_of(row_extent, row + done);
        for (int64_t k = 0; k < depth;) {
            int64_t part = even_run(depth_extent, k, depth - k);
            int64_t step = depth_extent->loops ? depth_extent->step[depth_extent->loops - 1] : 0;
            pack(sizeof(float), to + done * depth + k, depth, 1, first + offset_of(depth_extent, k), row_step, step, run,
                 part);
            k += part;
        }
        done += run;
    }
}

/* The epilogue over a block of products, a tile at a time. */
static void run_epilogue(const contraction *x, int64_t batch, int64_t row, int64_t rows, int64_t column, int64_t columns,
                         const float *products, unsigned char *buffer, void *const *tensors)
{
    const alternative *what = x->code->epilogue;
    const nest_outputs *to = x->code->stores;
    const unsigned char *packed[MAX_OPERANDS] = {0};
    int64_t packed_rows = 0, width = columns < TILE ? columns : TILE;
    int64_t height = columns < SHORT_ROW ? TILE / width : 1; /* a row at a time, most operands can be read in place */
    for (int64_t c = 0; c < columns; c += width) {
        int64_t tile_columns = columns - c < width ? columns - c : width;
        memset(packed, 0, sizeof packed);
        for (int64_t r = 0, tile_rows; r < rows; r += tile_rows) {
            tile_rows = rows - r < height ? rows - r : height;
            for (int i = 0; i < what->loads; i++)
                if (i != x->code->product)
                    tile_rows = even_run(&x->load[i].row, row + r, tile_rows);
            if (tile_rows != packed_rows)
                memset(packed, 0, sizeof packed);
            packed_rows = tile_rows;
            const void *loads[MAX_OPERANDS];
            void *stores[MAX_OPERANDS];
            for (int i = 0; i < what->loads; i++) {
                const matrix *m = &x->load[i];
                int64_t row_step = columns, column_step = 1, from = r * columns + c;
                const unsigned char *source = (const unsigned char *)(products + from);
                if (i != x->code->product) {
                    even_step(&m->column, &column_step);
                    row_step = m->row.loops ? m->row.step[m->row.loops - 1] : 0;
                    from = m->base + offset_of(&m->batch, batch) + offset_of(&m->row, row + r) + (column + c) * column_step;
                    source = (const unsigned char *)tensors[what->tensors[i]] + from * what->bytes[i];
                }
                int flat = (column_step == 1 || tile_columns == 1) && (row_step == tile_columns || tile_rows == 1);
                loads[i] = source;
                if (what->once[i] || flat)
                    continue;
                unsigned char *copy = buffer + (int64_t)i * TILE * 8;
                if (packed[i] != source)
                    pack(what->bytes[i], copy, tile_columns, 1, source, row_step, column_step, tile_rows, tile_columns);
                packed[i] = source;
                loads[i] = copy;
            }
            int64_t at = (batch * x->rows + row + r) * x->columns + column + c;
            int flat = tile_columns == x->columns || tile_rows == 1;
            for (int i = 0; i < to->stores; i++)
                stores[i] = flat ? (unsigned char *)tensors[to->tensors[i]] + at * to->bytes[i]
                                 : buffer + (int64_t)(what->loads + i) * TILE * 8;
            what->compute(tile_rows * tile_columns, loads, stores);
            for (int i = 0; i < to->stores && !flat; i++)
                pack(to->bytes[i], (unsigned char *)tensors[to->tensors[i]] + at * to->bytes[i], x->columns, 1, stores[i],
                     tile_columns, 1, tile_rows, tile_columns);
        }
    }
}

static const char *run_contraction(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors)
{
    const contraction *x = s->state;
    unsigned char *scratch = take_scratch(x->scratch);
    if (!scratch)
        return NO_MEMORY;
    int far = x->panels && p->constant_bytes > FAR_BYTES;
    int64_t packed_batch = -1, packed_column = -1, row_step = 0, depth_step = 0;
    even_step(&x->left.row, &row_step);
    even_step(&x->left.column, &depth_step);
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t block = unit / x->row_blocks, batch = block / x->column_blocks;
        int64_t column = block % x->column_blocks * x->block_columns, row = unit % x->row_blocks * x->block_rows;
        int64_t columns = x->columns - column < x->block_columns ? x->columns - column : x->block_columns;
        int64_t rows = x->rows - row < x->block_rows ? x->rows - row : x->block_rows;
        const float *panels = x->panels ? x->panels + column * x->depth : (const float *)scratch;
        if (!x->panels && (batch != packed_batch || column != packed_column)) {
            const float *from = (const float *)tensors[x->code->right] + x->right.base + offset_of(&x->right.batch, batch);
            pack_panels((float *)scratch, from, &x->right.row, &x->right.column, x->depth, column, columns);
            packed_batch = batch;
            packed_column = column;
        }
        const float *left = (const float *)tensors[x->code->left] + x->left.base + offset_of(&x->left.batch, batch);
        int64_t left_row = row_step, left_step = depth_step;
        if (x->left_at >= 0) {
            float *copy = (float *)(scratch + x->left_at);
            copy_rows(&x->left.row, &x->left.column, left, row, rows, x->depth, copy);
            left = copy;
            left_row = x->depth;
            left_step = 1;
        } else {
            left += row * row_step;
        }
        const float *bias = x->code->bias < 0 ? NULL : (const float *)tensors[x->code->bias] + x->bias.base + column;
        if (!x->code->epilogue) {
            float *to = (float *)tensors[x->code->to] + (batch * x->rows + row) * x->columns + column;
            multiply(rows, columns, x->depth, left, left_row, left_step, panels, far, x->code->scale, bias, to,
                     x->columns);
        } else {
            float *products = (float *)(scratch + x->products_at);
            multiply(rows, columns, x->depth, left, left_row, left_step, panels, far, x->code->scale, bias, products,
                     columns);
            run_epilogue(x, batch, row, rows, column, columns, products, scratch + x->packed_at, tensors);
        }
    }
    give_scratch(scratch);
    return NULL;
}

/* How operands lie in their tensors; does_not_fit where that is not as nested loops. */
static const char *place_contraction(plan *p, contraction *x, const shape *result, const shape *left, const shape *right,
                                     const void *frame)
{
    const contraction_code *code = x->code;
    int batch = result->rank - 2;
    load_place load[MAX_OPERANDS];
    if (x->depth > 0
        && (!place_matrices(code->place_left, frame, matrix_domain(left, result->size, batch), batch, load, 1, &x->left)
            || !place_matrices(code->place_right, frame, matrix_domain(right, result->size, batch), batch, load, 1,
                               &x->right)))
        return does_not_fit(p);
    if (code->bias >= 0) {
        int64_t step = 1;
        if (!place_matrices(code->place_bias, frame, matrix_domain(result, result->size, batch), batch, load, 1, &x->bias)
            || !is_fixed(&x->bias.batch) || !is_fixed(&x->bias.row) || !even_step(&x->bias.column, &step)
            || (step != 1 && x->columns > 1))
            return does_not_fit(p);
    }
    const alternative *what = code->epilogue;
    if (what) {
        if (!place_matrices(what->place, frame, matrix_domain(result, result->size, batch), batch, load, what->loads,
                            x->load))
            return does_not_fit(p);
        for (int i = 0; i < what->loads; i++)
            if (x->load[i].column.loops > 1)
                return does_not_fit(p);
    }
    if (is_fixed(&x->right.batch)) { /* one right operand for all: the rows of all are rows of one product */
        x->right.batch.loops = 0;
        fold_batch(&x->left);
        for (int i = 0; what && i < what->loads; i++)
            fold_batch(&x->load[i]);
        x->rows *= x->batches;
        x->batches = 1;
    }
    return NULL;
}

/* Cuts the product into blocks, the units of the step. */
static void cut_blocks(contraction *x)
{
    int64_t most_rows = x->panels ? BLOCK_ROWS : PACKED_BLOCK_ROWS, whole = (x->columns + PANEL - 1) / PANEL * PANEL;
    x->row_blocks = (x->rows + most_rows - 1) / most_rows;
    x->block_rows = (x->rows + x->row_blocks - 1) / x->row_blocks;
    int64_t widest = clamp(BLOCK_FLOATS / (x->depth + 1), PANEL, whole);
    x->column_blocks = (whole + widest - 1) / widest;
    if (x->batches * x->row_blocks * x->column_blocks < LEAST_UNITS && x->block_rows * x->columns * x->depth > LEAST_SUMS)
        x->column_blocks = LEAST_UNITS;
    x->block_columns = ((whole + x->column_blocks - 1) / x->column_blocks + PANEL - 1) / PANEL * PANEL;
    x->column_blocks = (x->columns + x->block_columns - 1) / x->block_columns;
    int64_t even, bytes = x->panels ? 0 : packed_floats(x->depth, x->block_columns) * (int64_t)sizeof(float);
    int in_place = even_step(&x->left.row, &even) && even_step(&x->left.column, &even);
    x->left_at = in_place ? -1 : bytes;
    bytes += in_place ? 0 : x->block_rows * x->depth * (int64_t)sizeof(float);
    x->products_at = bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (x->code->epilogue) {
        bytes += x->block_rows * x->block_columns * (int64_t)sizeof(float);
        x->packed_at = bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        bytes += (int64_t)(x->code->epilogue->loads + x->code->stores->stores) * TILE * 8;
    }
    x->scratch = bytes;
}

#endif

/* Plans a contraction; does_not_fit where an operand does not lie in its tensor as nested loops. */
SHARED const char *plan_contraction(plan *p, const contraction_code *code, const shape *result, const shape *left,
                                    const shape *right, const void *frame)
{
    contraction *x = calloc(1, sizeof *x);
    if (!x)
        return NO_MEMORY;
    x->code = code;
    x->batches = 1;
    for (int d = 0; d < result->rank - 2; d++)
        x->batches *= result->size[d];
    x->rows = result->size[result->rank - 2];
    x->columns = result->size[result->rank - 1];
    x->depth = left->size[left->rank - 1];
    if (x->batches * x->rows * x->columns == 0) {
        free(x);
        return NULL;
    }
    const char *error = place_contraction(p, x, result, left, right, frame);
    if (!error)
        error = pack_constant(p, code, x);
    if (error) {
        free(x);
        return error;
    }
    cut_blocks(x);
    int64_t units = x->batches * x->column_blocks * x->row_blocks;
    int64_t cost = x->depth / 16 + (code->epilogue ? code->stores->cost : 1);
    return add_step(p, (step){run_contraction, free, x, units, x->batches * x->rows * x->columns * cost, 0});
}

/* The shape of a product; 0 where the operands do not go together. */
SHARED int shape_contraction(const shape *left, const shape *right, shape *result)
{
    if (left->rank < 2 || right->rank < 2 || left->size[left->rank - 1] != right->size[right->rank - 2])
        return 0;
    shape a = *left, b = *right;
    int64_t rows = left->size[left->rank - 2], columns = right->size[right->rank - 1];
    a.rank -= 2;
    b.rank -= 2;
    if (!shape_broadcast(&a, &b, result) || result->rank + 2 > MAX_RANK)
        return 0;
    result->size[result->rank++] = rows;
    result->size[result->rank++] = columns;
    return 1;
}
