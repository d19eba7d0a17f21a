/* Products of matrices by the processor's matrix unit (Intel AMX), with the accuracy of float32.
 *
 * The unit multiplies bfloat16 and sums in float32. Every float is the sum of three bfloat16 *parts*, each the rounded
 * rest of those before: a = a0 + a1 + a2, exactly. Of the nine products of parts the six largest are summed,
 * a0 b0 + a0 b1 + a1 b0 + a0 b2 + a1 b1 + a2 b0: what is left out is below 2^-25 of a product, less than what rounding it
 * to float32 would cost. (See "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
 * Computations", Henry, Tang and Heinecke, 2019.)
 *
 * The unit takes what is below 2^-126 as zero. So it is used for operands whose elements are all below LARGEST: then no
 * product of parts is off by more than 2^-95, and neither infinities nor NaN are split.
 */
#if !defined(KERNELS_ONLY)
#if defined(__x86_64__) && defined(__linux__) && defined(__AVX512F__) \
    && ((defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11))
#define MATRIX_UNIT 1
#endif

enum { UNIT_COLUMNS = UNIT_ROWS, TILE_BYTES = UNIT_ROWS * UNIT_DEPTH * 2, PARTS_BYTES = PARTS * TILE_BYTES };
/* Bytes for the parts of a block of rows; more rows or depth than fit are taken in runs of the depth. */
enum { SPLIT_BYTES = 5 << 17 };

static inline int64_t tiles_of(int64_t elements, int64_t size) { return (elements + size - 1) / size; }

/* Bytes that a right operand takes in parts. */
static inline int64_t split_bytes(int64_t depth, int64_t columns)
{
    return tiles_of(columns, UNIT_COLUMNS) * tiles_of(depth, UNIT_DEPTH) * PARTS_BYTES;
}

/* The depth of a run: as few runs of equal size as the memory for a block of rows allows. */
static inline int64_t split_run(int64_t rows, int64_t depth)
{
    int64_t most = SPLIT_BYTES / (tiles_of(rows, UNIT_ROWS) * PARTS_BYTES), all = tiles_of(depth, UNIT_DEPTH);
    return tiles_of(all, tiles_of(all, most)) * UNIT_DEPTH;
}

#if defined(MATRIX_UNIT)
#include <cpuid.h>
#include <stdlib.h>
#include <sys/syscall.h>
extern long syscall(long number, ...); /* unistd.h has names that are used here for other things */

#define FOR_MATRIX_UNIT __attribute__((noinline, target("amx-tile,amx-bf16,avx512bf16")))
/* The intrinsics do not say that they read and write memory. */
#define MEMORY_SETTLED() __asm__ volatile("" ::: "memory")

/* Shapes of the unit's registers; see LDTILECFG in the Intel manual, volume 2A. */
typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} unit_shapes;

/* Whether the processor has the unit and the operating system lets this process use it; 2 where it is wanted for all products
 * that it can compute. */
static int matrix_unit_found(void)
{
    unsigned a, b, c, d;
    const char *wish = getenv("GRAPHOPT_MATRIX_UNIT");
    if (wish && strcmp(wish, "off") == 0)
        return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1))
        return 0; /* AMX-BF16, AMX-TILE */
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1))
        return 0; /* AVX512_BF16 */
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    if ((a & 0x600e6) != 0x600e6)
        return 0;
    if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) != 0)
        return 0;
    return wish && strcmp(wish, "always") == 0 ? 2 : 1;
}

static int has_matrix_unit(void)
{
    static int known = -1;
    int found = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (found < 0) {
        found = matrix_unit_found();
        __atomic_store_n(&known, found, __ATOMIC_RELAXED);
    }
    return found;
}

/* Makes the registers whole tiles; says in `before` what they were. */
static FOR_MATRIX_UNIT void take_matrix_unit(unit_shapes *before)
{
    unit_shapes whole = {.palette = 1};
    for (int k = 0; k < 8; k++) {
        whole.row_bytes[k] = 64;
        whole.rows[k] = 16;
    }
    _tile_storeconfig(before);
    MEMORY_SETTLED();
    _tile_loadconfig(&whole);
}

static FOR_MATRIX_UNIT void give_matrix_unit(const unit_shapes *before)
{
    MEMORY_SETTLED();
    if (before->palette)
        _tile_loadconfig(before);
    else
        _tile_release();
}

/* The bits of floats rounded to bfloat16, in the upper halves. */
static inline __m512i rounded_part(__m512 x)
{
    __m512i bits = _mm512_castps_si512(x);
    __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
    return _mm512_and_si512(bits, _mm512_set1_epi32((int)0xffff0000));
}

static const uint32_t LARGEST = 0x4e800000; /* 2^30 */

static inline __mmask16 first_lanes(int64_t count)
{
    return (__mmask16)(count >= 16 ? 0xffff : count > 0 ? (1u << count) - 1 : 0);
}

/* Splits `columns` of at most PANEL columns, `depth` rows of `panel` (PANEL floats a row), into parts. Tiles follow each other by
 * column, depth and part; each holds pairs of rows of 16 columns. 0 where an element is too large. */
static int split_panel(unsigned char *to, const float *panel, int64_t depth, int64_t columns)
{
    __m512i largest = _mm512_setzero_si512();
    int64_t blocks = tiles_of(depth, UNIT_DEPTH);
    for (int64_t tile = 0; tile < tiles_of(columns, UNIT_COLUMNS); tile++)
        for (int64_t k = 0; k < blocks * UNIT_DEPTH; k += 2) {
            const float *row = panel + k * PANEL + tile * UNIT_COLUMNS;
            __m512 x = k < depth ? _mm512_loadu_ps(row) : _mm512_setzero_ps();
            __m512 y = k + 1 < depth ? _mm512_loadu_ps(row + PANEL) : _mm512_setzero_ps();
            __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
            largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_castps_si512(x), magnitude));
            largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_castps_si512(y), magnitude));
            unsigned char *at = to + (tile * blocks + k / UNIT_DEPTH) * PARTS_BYTES + k % UNIT_DEPTH / 2 * 64;
            for (int part = 0; part < PARTS; part++) {
                __m512i u = rounded_part(x), v = rounded_part(y);
                _mm512_storeu_si512(at + part * TILE_BYTES, _mm512_or_si512(v, _mm512_srli_epi32(u, 16)));
                x -= _mm512_castsi512_ps(u);
                y -= _mm512_castsi512_ps(v);
            }
        }
    return _mm512_reduce_max_epu32(largest) < LARGEST;
}

/* The parts of 32 floats, `step` bytes apart. */
static inline __attribute__((always_inline, target("avx512bf16"))) void split_32(unsigned char *to, int64_t step, __m512 x, __m512 y)
{
    for (int part = 0; part < PARTS; part++) {
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh(y, x);
        _mm512_store_si512((void *)(to + part * step), both);
        if (part == PARTS - 1)
            break;
        __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(both));
        __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(both, 1));
        x -= _mm512_castsi512_ps(_mm512_slli_epi32(low, 16));
        y -= _mm512_castsi512_ps(_mm512_slli_epi32(high, 16));
    }
}

/* Splits rows of a left operand whose elements follow each other, zeros beyond them. Tiles follow each other by row, depth and part. 0
 * where an element is too large. */
static __attribute__((noinline, target("avx512bf16"))) int split_rows(unsigned char *to, const float *left, int64_t left_row,
                                                                      int64_t rows, int64_t depth)
{
    __m512i largest = _mm512_setzero_si512(), magnitude = _mm512_set1_epi32(0x7fffffff);
    int64_t blocks = tiles_of(depth, UNIT_DEPTH);
    for (int64_t row = 0; row < tiles_of(rows, UNIT_ROWS) * UNIT_ROWS; row++) {
        const float *from = left + row * left_row;
        unsigned char *at = to + row / UNIT_ROWS * blocks * PARTS_BYTES + row % UNIT_ROWS * 64;
        for (int64_t k = 0; k < depth; k += UNIT_DEPTH, at += PARTS_BYTES) {
            int64_t count = row < rows ? depth - k : 0;
            __m512 x = _mm512_maskz_loadu_ps(first_lanes(count), from + k);
            __m512 y = _mm512_maskz_loadu_ps(first_lanes(count - 16), from + k + 16);
            largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_castps_si512(x), magnitude));
            largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_castps_si512(y), magnitude));
            split_32(at, TILE_BYTES, x, y);
        }
    }
    return _mm512_reduce_max_epu32(largest) < LARGEST;
}

/* Tiles of the products: register 0 is row 0, column 0; 1 is row 0, column 1; 2 is row 1, column 0; 3 is row 1, column 1.
 * Where there are fewer tiles than registers, products of parts take turns: each sum waits for the one before it. */
#define MULTIPLY_PARTS(turn)                                         \
    do {                                                             \
        if (row_tiles == 2 && column_tiles == 2) {                   \
            _tile_dpbf16ps(0, 4, 6);                                 \
            _tile_dpbf16ps(1, 4, 7);                                 \
            _tile_dpbf16ps(2, 5, 6);                                 \
            _tile_dpbf16ps(3, 5, 7);                                 \
        } else if (column_tiles == 2) {                              \
            if ((turn) % 2) {                                        \
                _tile_dpbf16ps(2, 4, 6);                             \
                _tile_dpbf16ps(3, 4, 7);                             \
            } else {                                                 \
                _tile_dpbf16ps(0, 4, 6);                             \
                _tile_dpbf16ps(1, 4, 7);                             \
            }                                                        \
        } else if (row_tiles == 2) {                                 \
            if ((turn) % 2) {                                        \
                _tile_dpbf16ps(1, 4, 6);                             \
                _tile_dpbf16ps(3, 5, 6);                             \
            } else {                                                 \
                _tile_dpbf16ps(0, 4, 6);                             \
                _tile_dpbf16ps(2, 5, 6);                             \
            }                                                        \
        } else if ((turn) % 2) {                                     \
            _tile_dpbf16ps(1, 4, 6);                                 \
        } else {                                                     \
            _tile_dpbf16ps(0, 4, 6);                                 \
        }                                                            \
    } while (0)
#define LEFT_PART(part)                                              \
    do {                                                             \
        _tile_loadd(4, left + (part) * TILE_BYTES, 64);              \
        if (row_tiles == 2)                                          \
            _tile_loadd(5, left + left_tile + (part) * TILE_BYTES, 64); \
    } while (0)
#define RIGHT_PART(part)                                             \
    do {                                                             \
        for (int line = 0; ahead && line < lines; line++) {          \
            __builtin_prefetch(ahead + line * 64, 0, 2);             \
            __builtin_prefetch(ahead + next->column_tile + line * 64, 0, 2); \
        }                                                            \
        ahead += ahead ? lines * 64 : 0;                             \
        _tile_loadd(6, right + (part) * TILE_BYTES, 64);             \
        if (column_tiles == 2)                                       \
            _tile_loadd(7, right + right_tile + (part) * TILE_BYTES, 64); \
    } while (0)

/* What is fetched into the second-level cache while tiles are summed: for each tile of the depth, cache lines
 * [first, last) of two tiles of columns in parts. It is handed on by its address: a copy is read in larger pieces than it
 * was written in, and such a read waits until all sums that were stored before are in the cache. */
typedef struct {
    const unsigned char *from; /* NULL for nothing */
    int64_t column_tile;       /* bytes to the second tile of columns */
    int first, last;
} fetch_ahead;

enum { UNIT_LINES = PARTS_BYTES / 64, FETCHES = 4 /* for each tile of the depth: more lines at once hold up loads */ };

/* Sums that are not stored straight from the registers: four tiles, kept from one cut of the depth to the next. */
typedef struct {
    float sum[4][UNIT_ROWS][UNIT_COLUMNS] __attribute__((aligned(64)));
    int first, last; /* whether this is the first cut, the last */
} kept_sums;

/* Up to 2 x 2 tiles of sums over `blocks` tiles of the depth. left_tile, right_tile: bytes to the next tile of rows, of
 * columns. */
static inline __attribute__((always_inline, target("amx-tile,amx-bf16"))) void
sum_tiles(const int row_tiles, const int column_tiles, int64_t blocks, const unsigned char *left, int64_t left_tile,
          const unsigned char *right, int64_t right_tile, const fetch_ahead *next, kept_sums *kept, float *to,
          int64_t to_row, int64_t rows, int64_t columns, const sum_result *f)
{
    /* whole tiles are stored straight from the registers, and begin with what is added */
    const int whole = row_tiles == 2 && column_tiles == 2 && rows == 2 * UNIT_ROWS && columns == 2 * UNIT_COLUMNS && f->scale == 1.0f;
    int64_t row_bytes = to_row * (int64_t)sizeof(float);
    float *below = to + UNIT_ROWS * to_row;
    const unsigned char *ahead = next->from ? next->from + next->first * 64 : NULL;
    const int lines = (next->last - next->first + FETCHES - 1) / FETCHES;
    MEMORY_SETTLED();
    if (whole && f->add) {
        _tile_loadd(0, to, row_bytes);
        _tile_loadd(1, to + UNIT_COLUMNS, row_bytes);
        _tile_loadd(2, below, row_bytes);
        _tile_loadd(3, below + UNIT_COLUMNS, row_bytes);
    } else if (whole && f->bias) {
        _tile_loadd(0, f->bias, 0);
        _tile_loadd(1, f->bias + UNIT_COLUMNS, 0);
        _tile_loadd(2, f->bias, 0);
        _tile_loadd(3, f->bias + UNIT_COLUMNS, 0);
    } else if (!whole && !kept->first) {
        _tile_loadd(0, kept->sum[0], 64);
        _tile_loadd(1, kept->sum[1], 64);
        _tile_loadd(2, kept->sum[2], 64);
        _tile_loadd(3, kept->sum[3], 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < blocks; k++) { /* in an order that loads few tiles */
        LEFT_PART(0);
        RIGHT_PART(2);
        MULTIPLY_PARTS(0);
        RIGHT_PART(1);
        MULTIPLY_PARTS(1);
        RIGHT_PART(0);
        MULTIPLY_PARTS(0);
        LEFT_PART(2);
        MULTIPLY_PARTS(1);
        LEFT_PART(1);
        MULTIPLY_PARTS(0);
        RIGHT_PART(1);
        MULTIPLY_PARTS(1);
        left += PARTS_BYTES;
        right += PARTS_BYTES;
        ahead += ahead ? PARTS_BYTES - FETCHES * lines * 64 : 0;
    }
    if (whole) {
        _tile_stored(0, to, row_bytes);
        _tile_stored(1, to + UNIT_COLUMNS, row_bytes);
        _tile_stored(2, below, row_bytes);
        _tile_stored(3, below + UNIT_COLUMNS, row_bytes);
        MEMORY_SETTLED();
        return;
    }
    _tile_stored(0, kept->sum[0], 64);
    _tile_stored(1, kept->sum[1], 64);
    _tile_stored(2, kept->sum[2], 64);
    _tile_stored(3, kept->sum[3], 64);
    MEMORY_SETTLED();
    if (!kept->last)
        return;
    for (int64_t i = 0; i < rows; i++) {
        const int first = 2 * (i >= UNIT_ROWS), second = row_tiles == 1 && column_tiles == 2 ? 2 : 1;
        int64_t row = i % UNIT_ROWS;
        sums x = sums_at(kept->sum[first][row]);
        if (row_tiles == 1 || column_tiles == 1)
            x += sums_at(kept->sum[first + second][row]);
        store_sums(to + i * to_row, x, columns < UNIT_COLUMNS ? columns : UNIT_COLUMNS, f->bias, f);
        if (column_tiles == 1)
            continue;
        x = sums_at(kept->sum[first + 1][row]);
        if (row_tiles == 1)
            x += sums_at(kept->sum[3][row]);
        store_sums(to + i * to_row + UNIT_COLUMNS, x, columns - UNIT_COLUMNS, f->bias ? f->bias + UNIT_COLUMNS : NULL, f);
    }
}

#define DEFINE_SUM_TILES(row_tiles, column_tiles)                                                                      \
    static FOR_MATRIX_UNIT void sum_tiles_##row_tiles##_##column_tiles(                                                \
        int64_t blocks, const unsigned char *left, int64_t left_tile, const unsigned char *right, int64_t right_tile,  \
        const fetch_ahead *next, kept_sums *kept, float *to, int64_t to_row, int64_t rows, int64_t columns,            \
        const sum_result *f)                                                                                           \
    {                                                                                                                  \
        sum_tiles(row_tiles, column_tiles, blocks, left, left_tile, right, right_tile, next, kept, to, to_row, rows,   \
                  columns, f);                                                                                         \
    }
DEFINE_SUM_TILES(1, 1)
DEFINE_SUM_TILES(1, 2)
DEFINE_SUM_TILES(2, 1)
DEFINE_SUM_TILES(2, 2)

/* Some tiles of the depth are summed for up to WIDE_COLUMNS columns of up to CHUNK_ROWS rows, then the next ones. Of few rows, it is
 * two tiles: so their parts stay in the first-level cache for all these columns. Each cut of the depth stores the sums and loads
 * them again, which holds up the unit for about six products: many rows, which use what they load often enough, are summed
 * over as many tiles as leave room for other things in the second-level cache. */
enum { FEW_ROWS_DEPTH = 2, MANY_ROWS_DEPTH = 32, FEW_UNIT_ROWS = 4 * UNIT_ROWS, CHUNK_ROWS = 8 * UNIT_ROWS,
       WIDE_COLUMNS = 16 * UNIT_COLUMNS };

/* A product of parts, or one run of its depth: as the arguments of multiply_run. */
typedef struct {
    int64_t rows, columns;
    const unsigned char *left, *right;
    int64_t left_tile, right_tile;
    const sum_result *f;
    float *to;
    int64_t to_row;
} unit_product;

/* Adds tiles [k, end) of the depth to two tiles of columns of all rows. kept: sums of rows at the end that are less than two
 * tiles. Where columns are less than two tiles, everything is stored once: with the first tiles, over the whole depth of `blocks`.
 * next: tiles of the right operand that are fetched meanwhile; NULL for none. */
static void sum_columns(const unit_product *x, int64_t column, int64_t blocks, int64_t k, int64_t end, const unsigned char *next,
                        kept_sums *kept)
{
    int64_t width = x->columns - column < 2 * UNIT_COLUMNS ? x->columns - column : 2 * UNIT_COLUMNS;
    int64_t groups = tiles_of(x->rows, 2 * UNIT_ROWS);
    for (int64_t row = 0; row < x->rows; row += 2 * UNIT_ROWS) {
        int64_t height = x->rows - row < 2 * UNIT_ROWS ? x->rows - row : 2 * UNIT_ROWS, group = row / (2 * UNIT_ROWS);
        int at_once = width < 2 * UNIT_COLUMNS && end - k < blocks;
        int by_memory = width < 2 * UNIT_COLUMNS || height < 2 * UNIT_ROWS || x->f->scale != 1.0f;
        if (at_once && k > 0)
            continue;
        fetch_ahead ahead = {at_once ? NULL : next, x->right_tile, (int)(UNIT_LINES * group / groups),
                             (int)(UNIT_LINES * (group + 1) / groups)};
        sum_result here = {x->f->scale, x->f->add || (k > 0 && !by_memory),
                           x->f->bias && (by_memory || k == 0) ? x->f->bias + column : NULL};
        kept->first = k == 0;
        kept->last = at_once || end == blocks;
        (height > UNIT_ROWS ? (width > UNIT_COLUMNS ? sum_tiles_2_2 : sum_tiles_2_1)
                            : (width > UNIT_COLUMNS ? sum_tiles_1_2 : sum_tiles_1_1))(
            at_once ? blocks : end - k, x->left + row / UNIT_ROWS * x->left_tile + k * PARTS_BYTES, x->left_tile,
            x->right + column / UNIT_COLUMNS * x->right_tile + k * PARTS_BYTES, x->right_tile, &ahead,
            kept, x->to + row * x->to_row + column, x->to_row, height, width, &here);
    }
}

/* Products of up to CHUNK_ROWS rows. far: see multiply_run. */
static void multiply_chunk(const unit_product *x, int64_t blocks, int far)
{
    kept_sums kept[WIDE_COLUMNS / (2 * UNIT_COLUMNS)];
    int in_cuts = x->f->scale == 1.0f && x->rows >= 2 * UNIT_ROWS && x->columns >= 2 * UNIT_COLUMNS;
    int64_t deepest = x->rows > FEW_UNIT_ROWS ? MANY_ROWS_DEPTH : FEW_ROWS_DEPTH;
    int64_t cuts = in_cuts ? tiles_of(blocks, deepest) : 1; /* none has fewer tiles than the one before */
    for (int64_t first = 0, last; first < x->columns; first = last) {
        last = x->columns - first < WIDE_COLUMNS ? x->columns : first + WIDE_COLUMNS;
        for (int64_t cut = 0; cut < cuts; cut++) {
            int64_t k = blocks * cut / cuts, end = blocks * (cut + 1) / cuts;
            for (int64_t column = first; column < last; column += 2 * UNIT_COLUMNS) {
                int64_t next = column + 2 * UNIT_COLUMNS, next_k = k;
                if (next >= last && cut + 1 < cuts) {
                    next = first;
                    next_k = end;
                } else if (next >= last) {
                    next_k = 0;
                }
                const unsigned char *fetched = x->right + next / UNIT_COLUMNS * x->right_tile + next_k * PARTS_BYTES;
                sum_columns(x, column, blocks, k, end, far && next + UNIT_COLUMNS < x->columns ? fetched : NULL,
                            &kept[(column - first) / (2 * UNIT_COLUMNS)]);
            }
        }
    }
}

/* One run of the depth: to = left * right, or to += where f says so; f->bias: of the first column. left: parts of this
 * run, left_tile bytes from one tile of rows to the next. right: parts of the whole depth, which is `depth_blocks` tiles
 * deep, from the run's first tile on. Where it is far, beyond the second-level cache, the next tiles are fetched while tiles
 * are used. */
static void multiply_run(int64_t rows, int64_t columns, int64_t blocks, const unsigned char *left, int64_t left_tile,
                         const unsigned char *right, int64_t depth_blocks, int far, const sum_result *f, float *to, int64_t to_row)
{
    for (int64_t row = 0; row < rows; row += CHUNK_ROWS) {
        unit_product chunk = {rows - row < CHUNK_ROWS ? rows - row : CHUNK_ROWS, columns, left + row / UNIT_ROWS * left_tile, right,
                              left_tile, depth_blocks * PARTS_BYTES, f, to + row * to_row, to_row};
        multiply_chunk(&chunk, blocks, far);
    }
}

/* Whether the unit is faster than `multiply`, by cycles fitted to times of 400 products (benchmarks/matrix_unit.py): for
 * what is summed, elements of the left operand (split, or read), results, and weights, which come from further away in
 * large models. The unit's weights take half as many bytes again. */
static int matrix_unit_pays(int64_t rows, int64_t columns, int64_t depth)
{
    double left = (double)(rows * depth), results = (double)(rows * columns), weights = (double)(columns * depth);
    double tiles = (double)(tiles_of(rows, UNIT_ROWS) * tiles_of(columns, UNIT_COLUMNS) * tiles_of(depth, UNIT_DEPTH));
    double vectors = (double)(tiles_of(columns, SUMS) * (rows < 4 ? 4 : rows) * depth);
    double unit_cycles = UNIT_TILE_CYCLES * tiles + UNIT_LEFT_CYCLES * left + UNIT_RESULT_CYCLES * results
                         + UNIT_WEIGHT_CYCLES * weights;
    double vector_cycles = VECTOR_SUM_CYCLES * vectors + VECTOR_LEFT_CYCLES * left + VECTOR_RESULT_CYCLES * results
                           + VECTOR_WEIGHT_CYCLES * weights;
    int found = has_matrix_unit();
    return found > 1 || (found && unit_cycles < vector_cycles);
}
#else
static int matrix_unit_pays(int64_t rows, int64_t columns, int64_t depth)
{
    return (void)rows, (void)columns, (void)depth, 0;
}
#endif
#endif
