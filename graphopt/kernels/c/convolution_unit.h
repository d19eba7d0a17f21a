/* Convolutions over blocks of channels by the processor's matrix unit (see matrix_unit.h).
 *
 * The input that a chunk of the result needs is split into parts once, with zeros where it lies outside of the image, and
 * in *planes*: a plane holds every stride-th pixel. In its plane, the pixels under one tap of neighbouring results follow
 * each other, so a tile of the left operand (16 pixels, 32 channels) is read in place for each tap, a few pixels further on.
 * Results are summed over whole rows of planes; those of the few pixels beyond the last window of a row are not stored.
 */
typedef struct {
    int64_t depth_tiles;                         /* of a tap: two blocks of input channels each */
    int64_t rows, columns;                       /* of a chunk of the result */
    int64_t row_chunks, column_chunks, parts;    /* chunks, and parts of the output blocks: a task each */
    int64_t plane_rows, plane_columns, plane;    /* of the input that a chunk needs; pixels from plane to plane */
    int64_t steps;                               /* tiles of the whole depth */
    int64_t tasks;                               /* 0 where the unit is not used */
    int far;                                     /* the weights do not stay in the second-level cache */
    double work;                                 /* as of winograd_work */
} unit_plan;

#if !defined(KERNELS_ONLY) && defined(MATRIX_UNIT) && BLOCK == 16
#define CONVOLUTION_UNIT 1

enum { UNIT_RUN = 4, UNIT_PIXELS = 2 * UNIT_ROWS };

/* Whether a tap lies on the pixels of a plane, along one dimension. */
static int plane_is_used(int64_t taps, int64_t dilation, int64_t stride, int64_t plane)
{
    for (int64_t tap = 0; tap < taps; tap++)
        if (tap * dilation % stride == plane)
            return 1;
    return 0;
}

static int64_t used_planes(const convolution_plan *p)
{
    int64_t y = 0, x = 0;
    for (int64_t plane = 0; plane < p->stride_y; plane++)
        y += plane_is_used(p->kernel_height, p->dilation_y, p->stride_y, plane);
    for (int64_t plane = 0; plane < p->stride_x; plane++)
        x += plane_is_used(p->kernel_width, p->dilation_x, p->stride_x, plane);
    return y * x;
}

/* Sizes of chunks and planes for chunks of so many rows and columns. */
static void cut_unit_chunks(const convolution_plan *p, unit_plan *u, int64_t rows, int64_t columns)
{
    int64_t down = (p->kernel_height - 1) * p->dilation_y / p->stride_y;
    int64_t right = (p->kernel_width - 1) * p->dilation_x / p->stride_x;
    u->rows = rows;
    u->columns = columns;
    u->row_chunks = quotient_up(p->height, rows);
    u->column_chunks = quotient_up(p->width, columns);
    u->plane_rows = rows + down;
    u->plane_columns = columns + right;
    u->plane = u->plane_rows * u->plane_columns | 1; /* an odd number of cache lines keeps parts on different ones of the cache */
}

/* Bytes of the split input; tiles reach beyond the last result. */
static int64_t unit_input_bytes(const convolution_plan *p, const unit_plan *u)
{
    return (p->stride_y * p->stride_x * u->depth_tiles * PARTS * u->plane + UNIT_PIXELS + u->plane_columns) * 64;
}

/* Results of a chunk, those that are not stored between them. */
static int64_t unit_pixels(const unit_plan *u, int64_t rows, int64_t columns)
{
    return (rows - 1) * u->plane_columns + columns;
}

/* Plans a convolution for the unit, with what it would cost; 0 where it cannot take it. */
static int plan_unit(const convolution_plan *p, unit_plan *u)
{
    memset(u, 0, sizeof *u);
    if (p->plain_input || p->plain_output || p->depthwise || p->height < 1 || p->width < 1 || p->batch < 1
        || p->stride_y > MOST_UNIT_STRIDE || p->stride_x > MOST_UNIT_STRIDE || !has_matrix_unit())
        return 0;
    u->depth_tiles = quotient_up(p->input_blocks, 2);
    u->steps = p->kernel_height * p->kernel_width * u->depth_tiles;
    int64_t rows = p->height, columns = p->width, weights = p->output_blocks * u->steps * PARTS_BYTES;
    u->far = weights > FAR_WEIGHTS; /* then they are better read for few chunks */
    int64_t most = u->far ? FAR_PARTS_BYTES : NEAR_PARTS_BYTES;
    for (cut_unit_chunks(p, u, rows, columns); unit_input_bytes(p, u) > most; cut_unit_chunks(p, u, rows, columns)) {
        if (rows > 1)
            rows--;
        else if (columns > UNIT_PIXELS)
            columns = (columns - 1) / UNIT_PIXELS * UNIT_PIXELS;
        else
            return 0;
    }
    /* chunks of equal sizes */
    columns = u->column_chunks > 1 ? tiles_of(quotient_up(p->width, u->column_chunks), UNIT_PIXELS) * UNIT_PIXELS : columns;
    cut_unit_chunks(p, u, quotient_up(p->height, u->row_chunks), columns);
    int64_t chunks = p->batch * p->groups * u->row_chunks * u->column_chunks;
    u->parts = chunks < 2 && p->output_blocks >= 4 ? 2 : 1;
    /* cycles, as measured */
    double tiles = (double)(chunks * quotient_up(unit_pixels(u, u->rows, u->columns), UNIT_PIXELS) * p->output_blocks);
    double products = tiles * ((double)u->steps * (p->output_blocks % 2 ? ODD_STEP_CYCLES : EVEN_STEP_CYCLES) + WINDOW_TILE_CYCLES);
    double split = (double)(chunks * u->parts * u->depth_tiles * used_planes(p) * u->plane_rows * u->plane_columns);
    double fetched = (double)(weights * (u->far ? chunks : p->groups));
    u->work = CYCLE_OPERATIONS * (products + SPLIT_PIXEL_CYCLES * split + FETCHED_BYTE_CYCLES * fetched) + UNIT_OPERATIONS;
    if (has_matrix_unit() > 1)
        u->work = 0; /* wanted wherever it can be */
    u->tasks = chunks * u->parts;
    return 1;
}

/* Bytes of weights in parts: [group, output block, tile of the depth, tap, part]. */
static int64_t unit_weight_bytes(const convolution_plan *p, const unit_plan *u)
{
    return p->groups * p->output_blocks * u->steps * PARTS_BYTES;
}

/* Splits weights that are in the order of the blocked layout; 0 where an element is too large. */
static int split_weights(const convolution_plan *p, const unit_plan *u, const float *weights, unsigned char *to)
{
    const int64_t taps = p->kernel_height * p->kernel_width, square = BLOCK * BLOCK;
    float panel[UNIT_DEPTH * PANEL];
    memset(panel, 0, sizeof panel);
    for (int64_t block = 0; block < p->groups * p->output_blocks; block++)
        for (int64_t k = 0; k < u->depth_tiles; k++)
            for (int64_t tap = 0; tap < taps; tap++, to += PARTS_BYTES) {
                for (int64_t i = 0; i < UNIT_DEPTH; i++) {
                    int64_t ib = 2 * k + i / BLOCK;
                    channels x = {0};
                    if (ib < p->input_blocks)
                        x = load(weights + ((block * p->input_blocks + ib) * taps + tap) * square + i % BLOCK * BLOCK);
                    store(panel + i * PANEL, x);
                }
                if (!split_panel(to, panel, UNIT_DEPTH, UNIT_COLUMNS))
                    return 0;
            }
    return 1;
}

/* Splits pixels of two blocks of channels, `step` floats apart; second: NULL for zeros. What is too large shows in `largest`. */
static inline __attribute__((always_inline, target("avx512bf16"))) void
split_pixels(unsigned char *to, int64_t part, const float *first, const float *second, int64_t step, int64_t count, __m512i *largest)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    for (int64_t i = 0; i < count; i++, to += 64, first += step) {
        __m512 x = _mm512_loadu_ps(first), y = _mm512_setzero_ps();
        if (second)
            y = _mm512_loadu_ps(second + i * step);
        *largest = _mm512_max_epu32(*largest, _mm512_and_si512(_mm512_castps_si512(x), magnitude));
        *largest = _mm512_max_epu32(*largest, _mm512_and_si512(_mm512_castps_si512(y), magnitude));
        split_32(to, part, x, y);
    }
}

/* Zeros for pixels outside of the image. */
static void clear_pixels(unsigned char *to, int64_t part, int64_t count)
{
    for (int k = 0; k < PARTS && count > 0; k++)
        memset(to + k * part, 0, (size_t)(count * 64));
}

/* Splits the input of a chunk whose first result is at (y0, x0); image: of its first channels. 0 where an element is too large. */
static __attribute__((noinline, target("avx512bf16"))) int split_window(const convolution_plan *p, const unit_plan *u, const float *image,
                                                                        int64_t y0, int64_t x0, unsigned char *parts)
{
    const int64_t image_block = p->input_height * p->input_width * BLOCK, part = u->plane * 64;
    __m512i largest = _mm512_setzero_si512();
    for (int64_t plane = 0; plane < p->stride_y * p->stride_x; plane++) {
        int64_t plane_y = plane / p->stride_x, plane_x = plane % p->stride_x;
        if (!plane_is_used(p->kernel_height, p->dilation_y, p->stride_y, plane_y)
            || !plane_is_used(p->kernel_width, p->dilation_x, p->stride_x, plane_x))
            continue;
        /* columns of the plane that lie in the image */
        int64_t x = x0 * p->stride_x + plane_x - p->left;
        int64_t begin = clamp(x < 0 ? quotient_up(-x, p->stride_x) : 0, 0, u->plane_columns);
        int64_t end = clamp(x < p->input_width ? quotient_up(p->input_width - x, p->stride_x) : 0, begin, u->plane_columns);
        for (int64_t k = 0; k < u->depth_tiles; k++) {
            unsigned char *to = parts + (plane * u->depth_tiles + k) * PARTS * part;
            for (int64_t row = 0; row < u->plane_rows; row++, to += u->plane_columns * 64) {
                int64_t y = (y0 + row) * p->stride_y + plane_y - p->top;
                if (y < 0 || y >= p->input_height) {
                    clear_pixels(to, part, u->plane_columns);
                    continue;
                }
                const float *from = image + 2 * k * image_block + (y * p->input_width + x + begin * p->stride_x) * BLOCK;
                clear_pixels(to, part, begin);
                if (2 * k + 1 < p->input_blocks)
                    split_pixels(to + begin * 64, part, from, from + image_block, p->stride_x * BLOCK, end - begin, &largest);
                else
                    split_pixels(to + begin * 64, part, from, NULL, p->stride_x * BLOCK, end - begin, &largest);
                clear_pixels(to + end * 64, part, u->plane_columns - end);
            }
        }
    }
    return _mm512_reduce_max_epu32(largest) < LARGEST;
}

#define WINDOW_TILE(to, number) _tile_loadd(to, left + offsets[k] + (number) * part + ((to) - 4) * UNIT_ROWS * 64, 64)
#define WEIGHTS_TILE(to, number) _tile_loadd(to, right + (number) * TILE_BYTES + ((to) - 6) * right_tile, 64)
/* The four products of two window tiles and two weights tiles, with the next weights or windows loaded between them. */
#define FOUR_BY_WEIGHTS(next6, next7) \
    do {                              \
        _tile_dpbf16ps(0, 4, 6);      \
        _tile_dpbf16ps(2, 5, 6);      \
        next6;                        \
        _tile_dpbf16ps(1, 4, 7);      \
        _tile_dpbf16ps(3, 5, 7);      \
        next7;                        \
    } while (0)
#define FOUR_BY_WINDOW(next4, next5) \
    do {                             \
        _tile_dpbf16ps(0, 4, 6);     \
        _tile_dpbf16ps(1, 4, 7);     \
        next4;                       \
        _tile_dpbf16ps(2, 5, 6);     \
        _tile_dpbf16ps(3, 5, 7);     \
        next5;                       \
    } while (0)
#define TWO(first, second, next, and) \
    do {                              \
        _tile_dpbf16ps(first, 4, 6);  \
        _tile_dpbf16ps(second, 5, 6); \
        next;                         \
        and;                          \
    } while (0)

/* Adds the products of a run of tiles of the depth for 32 pixels and one or two output blocks; sums: [2][32][BLOCK]. With one
 * block, they are the sum of both halves. left: the pixels' first tap; offsets: to the pixels of each step. */
static inline __attribute__((always_inline, target("amx-tile,amx-bf16"))) void
sum_windows(const int column_tiles, const int64_t *offsets, int64_t steps, const unsigned char *left, int64_t part,
            const unsigned char *right, int64_t right_tile, const fetch_ahead *next, int add, float *sums)
{
    const unsigned char *ahead = next->from;
    float *second = sums + UNIT_PIXELS * BLOCK, *below = sums + UNIT_ROWS * BLOCK;
    MEMORY_SETTLED();
    if (add) {
        _tile_loadd(0, sums, 64);
        _tile_loadd(1, second, 64);
        _tile_loadd(2, below, 64);
        _tile_loadd(3, second + UNIT_ROWS * BLOCK, 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < steps; k++) {
        if (ahead) {
            for (int line = next->first; line < next->last; line++) {
                __builtin_prefetch(ahead + line * 64, 0, 2);
                __builtin_prefetch(ahead + next->column_tile + line * 64, 0, 2);
            }
            ahead += PARTS_BYTES;
        }
        /* few loads, each between products that do not wait for it */
        WINDOW_TILE(4, 0);
        WEIGHTS_TILE(6, 2);
        if (column_tiles == 2) {
            WEIGHTS_TILE(7, 2);
            WINDOW_TILE(5, 0);
            FOUR_BY_WEIGHTS(WEIGHTS_TILE(6, 1), WEIGHTS_TILE(7, 1));
            FOUR_BY_WEIGHTS(WEIGHTS_TILE(6, 0), WEIGHTS_TILE(7, 0));
            FOUR_BY_WINDOW(WINDOW_TILE(4, 2), WINDOW_TILE(5, 2));
            FOUR_BY_WINDOW(WINDOW_TILE(4, 1), WINDOW_TILE(5, 1));
            FOUR_BY_WEIGHTS(WEIGHTS_TILE(6, 1), WEIGHTS_TILE(7, 1));
            FOUR_BY_WEIGHTS((void)0, (void)0);
        } else { /* products take turns: each sum waits for the one before it */
            WINDOW_TILE(5, 0);
            TWO(0, 2, WEIGHTS_TILE(6, 1), (void)0);
            TWO(1, 3, WEIGHTS_TILE(6, 0), (void)0);
            TWO(0, 2, WINDOW_TILE(4, 2), WINDOW_TILE(5, 2));
            TWO(1, 3, WINDOW_TILE(4, 1), WINDOW_TILE(5, 1));
            TWO(0, 2, WEIGHTS_TILE(6, 1), (void)0);
            TWO(1, 3, (void)0, (void)0);
        }
        right += PARTS_BYTES;
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, second, 64);
    _tile_stored(2, below, 64);
    _tile_stored(3, second + UNIT_ROWS * BLOCK, 64);
    MEMORY_SETTLED();
}

#define DEFINE_SUM_WINDOWS(column_tiles)                                                                                   \
    static FOR_MATRIX_UNIT void sum_windows_##column_tiles(const int64_t *offsets, int64_t steps, const unsigned char *left, \
                                                           int64_t part, const unsigned char *right, int64_t right_tile,    \
                                                           const fetch_ahead *next, int add, float *sums)                   \
    {                                                                                                                       \
        sum_windows(column_tiles, offsets, steps, left, part, right, right_tile, next, add, sums);                          \
    }
DEFINE_SUM_WINDOWS(1)
DEFINE_SUM_WINDOWS(2)

/* Finishes `count` neighbouring results of an output block and stores them; place: of the first one, in the result. */
static void finish_pixels(const convolution_call *call, int64_t block, const float *sums, const float *more, int64_t place, int64_t count)
{
    const convolution_plan *p = call->p;
    const int bounds = p->low > -INFINITY || p->high < INFINITY;
    const channels bias = load(call->bias ? call->bias + block * BLOCK : NO_BIAS);
    for (int64_t i = 0; i < count; i++) {
        channels x = load(sums + i * BLOCK) + bias;
        if (more)
            x += load(more + i * BLOCK);
        if (call->sum)
            x += load(call->sum + place + i * BLOCK);
        if (bounds)
            x = bounded(x, p->low, p->high);
        store(call->result + place + i * BLOCK, x);
    }
}

/* A chunk for some output blocks of a group. */
typedef struct {
    int64_t n, group, first, last; /* blocks */
    int64_t y, x, rows, columns;
} unit_chunk;

/* Finishes 32 sums from pixel `flat` of a chunk on, of `blocks` output blocks. */
static void finish_windows(const convolution_call *call, const unit_plan *u, const unit_chunk *c, int64_t block, int64_t blocks,
                           int64_t flat, const float *sums)
{
    const convolution_plan *p = call->p;
    const int64_t channel = c->group * p->output_blocks + block, plane = p->groups * p->output_blocks;
    int64_t y = flat / u->plane_columns, x = flat % u->plane_columns;
    for (int64_t done = 0, run; done < UNIT_PIXELS && y < c->rows; done += run, y++, x = 0) {
        run = least(UNIT_PIXELS - done, u->plane_columns - x);
        int64_t count = least(run, c->columns - x);
        const float *from = sums + done * BLOCK, *second = from + UNIT_PIXELS * BLOCK;
        for (int64_t b = 0; b < blocks; b++) {
            int64_t place = (((c->n * plane + channel + b) * p->height + c->y + y) * p->width + c->x + x) * BLOCK;
            finish_pixels(call, channel + b, b ? second : from, blocks == 1 ? second : NULL, place, count);
        }
    }
}

/* Results of a chunk tap by tap, where the unit cannot take its input. */
static void sum_chunk_again(const convolution_call *call, const unit_chunk *c, const float *image)
{
    const convolution_plan *p = call->p;
    const int64_t floats = p->input_blocks * p->kernel_height * p->kernel_width * BLOCK * BLOCK;
    for (int64_t block = c->first; block < c->last; block++) {
        int64_t channel = c->group * p->output_blocks + block;
        for (int64_t y = c->y; y < c->y + c->rows; y++)
            for (int64_t x = c->x; x < c->x + c->columns; x++) {
                channels sum;
                compute_tile_again(p, image, call->given + channel * floats, y, x, 1, 1, 1, &sum);
                int64_t place = (((c->n * p->groups * p->output_blocks + channel) * p->height + y) * p->width + x) * BLOCK;
                finish_pixels(call, channel, (const float *)&sum, NULL, place, 1);
            }
    }
}

/* Floats for the sums of a chunk: of all its pixels where they are summed in several runs of the depth. */
static int64_t unit_sums(const unit_plan *u)
{
    int64_t groups = quotient_up(unit_pixels(u, u->rows, u->columns), UNIT_PIXELS);
    return (u->steps > UNIT_RUN ? groups : 1) * 2 * UNIT_PIXELS * BLOCK;
}

/* Sums and finishes a chunk whose input is split. The weights of a run of the depth stay in the first-level cache for all
 * pixels. */
static void run_unit_chunk(const convolution_call *call, const unit_plan *u, const unit_chunk *c, const unsigned char *parts,
                           const unsigned char *weights, const int64_t *offsets, float *sums)
{
    const convolution_plan *p = call->p;
    const int64_t pixels = unit_pixels(u, c->rows, c->columns), groups = quotient_up(pixels, UNIT_PIXELS), part = u->plane * 64;
    const int64_t runs = quotient_up(u->steps, UNIT_RUN), right_tile = u->steps * PARTS_BYTES;
    for (int64_t block = c->first, next; block < c->last; block = next) {
        next = least(block + 2, c->last);
        const unsigned char *right = weights + (c->group * p->output_blocks + block) * right_tile;
        for (int64_t run = 0, k = 0, end; run < runs; run++, k = end) {
            end = u->steps * (run + 1) / runs;
            for (int64_t group = 0; group < groups; group++) {
                float *here = sums + (runs > 1 ? group * 2 * UNIT_PIXELS * BLOCK : 0);
                fetch_ahead ahead = {NULL, right_tile, (int)(UNIT_LINES * group / groups), (int)(UNIT_LINES * (group + 1) / groups)};
                if (u->far && next + 2 <= c->last)
                    ahead.from = right + 2 * right_tile + k * PARTS_BYTES;
                (next - block == 2 ? sum_windows_2 : sum_windows_1)(offsets + k, end - k, parts + group * UNIT_PIXELS * 64, part,
                                                                    right + k * PARTS_BYTES, right_tile, &ahead, k > 0, here);
                if (end == u->steps)
                    finish_windows(call, u, c, block, next - block, group * UNIT_PIXELS, here);
            }
        }
    }
}

/* One task: a chunk of the result, for a part of the output blocks of a group. */
static int run_unit(const convolution_call *call, const unit_plan *u, int64_t task)
{
    const convolution_plan *p = call->p;
    const int64_t part_blocks = quotient_up(p->output_blocks, u->parts), input = unit_input_bytes(p, u);
    unit_chunk c;
    c.first = task % u->parts * part_blocks;
    c.last = least(c.first + part_blocks, p->output_blocks);
    task /= u->parts;
    c.x = task % u->column_chunks * u->columns;
    task /= u->column_chunks;
    c.y = task % u->row_chunks * u->rows;
    task /= u->row_chunks;
    c.group = task % p->groups;
    c.n = task / p->groups;
    c.rows = least(u->rows, p->height - c.y);
    c.columns = least(u->columns, p->width - c.x);
    const int64_t sums = (unit_sums(u) * (int64_t)sizeof(float));
    unsigned char *scratch = take_scratch(input + sums + u->steps * (int64_t)sizeof(int64_t));
    if (!scratch)
        return 0;
    int64_t *offsets = (int64_t *)(void *)(scratch + input + sums), *offset = offsets;
    for (int64_t k = 0; k < u->depth_tiles; k++) /* neighbouring taps last: they read the same pixels */
        for (int64_t y = 0; y < p->kernel_height; y++)
            for (int64_t x = 0; x < p->kernel_width; x++) {
                int64_t dy = y * p->dilation_y, dx = x * p->dilation_x, plane = dy % p->stride_y * p->stride_x + dx % p->stride_x;
                int64_t pixel = dy / p->stride_y * u->plane_columns + dx / p->stride_x;
                *offset++ = ((plane * u->depth_tiles + k) * PARTS * u->plane + pixel) * 64;
            }
    const float *image = call->input + (c.n * p->groups + c.group) * p->input_blocks * p->input_height * p->input_width * BLOCK;
    if (split_window(p, u, image, c.y, c.x, scratch))
        run_unit_chunk(call, u, &c, scratch, (const unsigned char *)call->packed, offsets, (float *)(void *)(scratch + input));
    else
        sum_chunk_again(call, &c, image);
    if (call->epilogue)
        run_chunk_epilogue(call, (c.n * p->groups + c.group) * p->output_blocks + c.first, BLOCK, c.last - c.first, c.y, c.x, c.rows,
                           c.columns);
    give_scratch(scratch);
    return 1;
}
#endif
