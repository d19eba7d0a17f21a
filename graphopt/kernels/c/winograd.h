/* Convolutions with fewer multiplications (Winograd's minimal filters in the construction of Toom and Cook).
 *
 * m neighbouring results of a filter of r taps are the coefficients of a product of polynomials. Evaluated at n = m + r - 1
 * points they cost n products in place of m * r; the points are 0, infinity, and pairs of opposite numbers. In two
 * dimensions the image is cut into tiles of n x n, overlapping by r - 1. Each tile is transformed to n x n values per
 * channel; for each of the n x n places a matrix product over the channels takes what the filters transformed to; its
 * sums are transformed back to m x m results. Weights are transformed once, in double precision.
 *
 * With 4 points (0, 1, -1) the error is that of plain sums, with 6 (0, 3/4, -3/4, 3/2, -3/2) about twice as large: these
 * points are exact numbers of few digits, and keep the transforms' factors small. Errors are relative to the largest
 * values of a tile. Tiles with a result that is infinite or not a number are computed again tap by tap, so that such
 * values reach the results that they belong to and no others.
 */

enum { MOST_POINTS = 6 };

/* How the tiles of a convolution are cut along one dimension. */
typedef struct {
    int points;  /* values of a tile; 1: not transformed */
    int results; /* results of a tile */
    int64_t tiles;
} cut;

typedef struct {
    cut y, x;
    int64_t rows, columns;                /* tiles of a chunk; rows of all images follow each other */
    int64_t row_chunks, column_chunks;    /* how many of these */
    int64_t input_floats, product_floats; /* from one place of a tile to the next, in the working memory */
    int64_t tasks;
    double work; /* of the better way: by such tiles, or directly where there are no tasks */
    const tile_family *tiles;
} winograd_plan;

/* The points; the last one is infinity. */
static const double POINTS[][MOST_POINTS - 1] __attribute__((unused)) = {
    [4] = {0, 1, -1},
    [6] = {0, 0.75, -0.75, 1.5, -1.5},
};

/* What takes the taps of a filter to its value at point j, over the factor that makes up for the interpolation. */
SHARED void filter_factors(int points, int taps, int j, double *factor)
{
    double scale = 1, power = 1;
    if (points == 1 || j == points - 1) {
        for (int i = 0; i < taps; i++)
            factor[i] = i == taps - 1;
        return;
    }
    for (int k = 0; k < points - 1; k++)
        if (k != j)
            scale *= POINTS[points][j] - POINTS[points][k];
    for (int i = 0; i < taps; i++, power *= POINTS[points][j])
        factor[i] = power / scale;
}

/* ---------------------------------------------------------------- plans */

/* Work of a convolution by such tiles, in vector operations: products, transforms, and weights from far away. */
SHARED double winograd_work(const convolution_plan *p, const cut *y, const cut *x)
{
    double places = y->points * x->points, tiles = (double)(p->batch * y->tiles * x->tiles);
    double pairs = (double)(p->input_blocks * p->output_blocks);
    double products = places * tiles * pairs * BLOCK * (1 + 4 / (tiles < FEWEST_TILES ? tiles : FEWEST_TILES));
    double transforms = (TILE_OPERATIONS + PLACE_OPERATIONS * places) * tiles * (double)(p->input_blocks + p->output_blocks);
    double weights = places * pairs * BLOCK * WEIGHT_OPERATIONS;
    return (products > weights ? products + weights / 4 : weights + products / 4) + transforms;
}

static inline cut cut_of(int points, int64_t taps, int64_t size)
{
    int64_t results = points > 1 ? points - taps + 1 : 1;
    return (cut){points, (int)results, quotient_up(size, results)};
}

/* Whether a blocked convolution is computed in this way, and how. */
SHARED int plan_winograd(const convolution_plan *p, winograd_plan *w)
{
    static const int SIZES[][2] = {{4, 4}, {6, 6}, {1, 6}, {6, 1}};
    memset(w, 0, sizeof *w);
    const int64_t taps = p->kernel_height * p->kernel_width;
    double pairs = (double)(p->input_blocks * p->output_blocks * p->pitch);
    double direct = (double)(p->batch * p->height * p->width * taps) * pairs, weights = (double)taps * pairs * WEIGHT_OPERATIONS;
    w->work = (double)p->groups * (direct > weights ? direct + weights / 4 : weights + direct / 4);
    if (p->plain_input || p->plain_output || p->depthwise || p->stride_y != 1 || p->stride_x != 1 || p->dilation_y != 1
        || p->dilation_x != 1 || p->height < 1 || p->width < 1 || p->batch < 1)
        return 0;
    double best = TRANSFORM_SHARE * w->work / (double)p->groups;
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        int ny = SIZES[i][0], nx = SIZES[i][1];
        if ((ny == 1) != (p->kernel_height == 1) || (nx == 1) != (p->kernel_width == 1) || (ny > 1 && p->kernel_height >= ny)
            || (nx > 1 && p->kernel_width >= nx))
            continue;
        cut y = cut_of(ny, p->kernel_height, p->height), x = cut_of(nx, p->kernel_width, p->width);
        /* transforms are compiled for two and four results */
        if ((y.results != 1 && y.results != 2 && y.results != 4) || (x.results != 1 && x.results != 2 && x.results != 4)
            || (y.results > 1 && x.results > 1 && y.results != x.results))
            continue;
        double work = winograd_work(p, &y, &x);
        if (work < best) {
            best = work;
            w->work = work * (double)p->groups;
            w->y = y;
            w->x = x;
        }
    }
    w->tiles = family_of(0, 0, 1, 0, BLOCK);
    if (!w->x.points || !w->tiles)
        return 0;
    int64_t places = w->y.points * w->x.points, blocks = p->input_blocks + least(p->output_blocks, MOST_BLOCKS);
    int64_t most = WORKING_FLOATS / (places * blocks * BLOCK);
    most = most < FEWEST_TILES ? FEWEST_TILES : most;
    int64_t rows = p->batch * w->y.tiles;
    w->columns = quotient_up(w->x.tiles, quotient_up(w->x.tiles, most));
    w->rows = clamp(most / w->columns, 1, rows);
    w->rows = quotient_up(rows, quotient_up(rows, w->rows));
    w->row_chunks = quotient_up(rows, w->rows);
    w->column_chunks = quotient_up(w->x.tiles, w->columns);
    /* an odd number of cache lines more, or the places of a tile would fall on the same lines of the first-level cache */
    w->input_floats = (w->rows * w->columns * p->input_blocks | 1) * BLOCK;
    w->product_floats = (w->rows * w->columns * least(p->output_blocks, MOST_BLOCKS) | 1) * BLOCK;
    w->tasks = p->groups * w->row_chunks * w->column_chunks;
    return 1;
}

/* Floats of transformed weights: [place, group, output block, input block, input channel, BLOCK]. */
SHARED int64_t winograd_floats(const convolution_plan *p, const winograd_plan *w)
{
    return w->y.points * w->x.points * p->groups * p->output_blocks * p->input_blocks * BLOCK * BLOCK;
}

/* Transforms weights that are in the order of the blocked layout. */
SHARED void transform_weights(const convolution_plan *p, const winograd_plan *w, const float *weights, float *to)
{
    const int64_t square = BLOCK * BLOCK, taps = p->kernel_height * p->kernel_width;
    const int64_t pairs = p->groups * p->output_blocks * p->input_blocks;
    double along_y[MOST_POINTS], along_x[MOST_POINTS];
    for (int j = 0; j < w->y.points; j++)
        for (int i = 0; i < w->x.points; i++) {
            filter_factors(w->y.points, (int)p->kernel_height, j, along_y);
            filter_factors(w->x.points, (int)p->kernel_width, i, along_x);
            for (int64_t pair = 0; pair < pairs; pair++, to += square) {
                double sum[BLOCK * BLOCK] = {0};
                const float *from = weights + pair * taps * square;
                for (int64_t y = 0; y < p->kernel_height; y++)
                    for (int64_t x = 0; x < p->kernel_width; x++, from += square)
                        for (int64_t k = 0; k < square; k++)
                            sum[k] += along_y[y] * along_x[x] * (double)from[k];
                for (int64_t k = 0; k < square; k++)
                    to[k] = (float)sum[k];
            }
        }
}

/* ---------------------------------------------------------------- transforms */

#if defined(__clang__)
#pragma clang fp contract(fast)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")
#endif

#define INLINE static inline __attribute__((always_inline, unused))

/* Values of a tile to values at the points. */
INLINE void at_points(int points, const channels *d, channels *v)
{
    if (points == 4) {
        v[0] = d[2] - d[0];
        v[1] = d[2] + d[1];
        v[2] = d[2] - d[1];
        v[3] = d[3] - d[1];
    } else if (points == 6) {
        const float p = 0.75F, pp = 0.5625F, q = 1.5F, qq = 2.25F;
        const channels a = d[4] - qq * d[2], b = p * (d[3] - qq * d[1]), c = d[4] - pp * d[2], e = q * (d[3] - pp * d[1]);
        v[0] = d[4] - (pp + qq) * d[2] + pp * qq * d[0];
        v[1] = a + b;
        v[2] = a - b;
        v[3] = c + e;
        v[4] = c - e;
        v[5] = d[5] - (pp + qq) * d[3] + pp * qq * d[1];
    } else {
        v[0] = d[0];
    }
}

/* Sums at the points to results. */
INLINE void from_points(int points, int results, const channels *s, channels *y)
{
    if (points == 4) {
        const channels even = s[1] + s[2], odd = s[1] - s[2];
        y[0] = s[0] + even;
        y[1] = odd + s[3];
    } else if (points == 6) {
        const float p = 0.75F, pp = 0.5625F, q = 1.5F, qq = 2.25F;
        const channels a = s[1] + s[2], b = p * (s[1] - s[2]), c = s[3] + s[4], e = q * (s[3] - s[4]);
        y[0] = s[0] + a + c;
        y[1] = b + e;
        if (results == 2)
            y[1] += s[5];
        if (results == 4) {
            y[2] = pp * a + qq * c;
            y[3] = pp * b + qq * e + s[5];
        }
    } else {
        y[0] = s[0];
    }
}

#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 8")
#endif

/* One tile of one block of channels: from an image, to its places. */
INLINE void transform_input(int ny, int nx, const float *from, int64_t row, float *to, int64_t place)
{
    channels d[MOST_POINTS], v[MOST_POINTS], half[MOST_POINTS * MOST_POINTS];
    UNROLLED
    for (int x = 0; x < nx; x++) {
        UNROLLED
        for (int y = 0; y < ny; y++)
            d[y] = load(from + y * row + x * BLOCK);
        at_points(ny, d, v);
        UNROLLED
        for (int y = 0; y < ny; y++)
            half[y * nx + x] = v[y];
    }
    UNROLLED
    for (int y = 0; y < ny; y++) {
        at_points(nx, half + y * nx, v);
        UNROLLED
        for (int x = 0; x < nx; x++)
            store(to + (y * nx + x) * place, v[x]);
    }
}

/* Neighbouring tiles of one block of channels. */
INLINE void transform_inputs(int ny, int nx, const float *from, int64_t row, int64_t step, int64_t count, float *to,
                             int64_t place)
{
    for (; count > 0; count--, from += step, to += BLOCK)
        transform_input(ny, nx, from, row, to, place);
}

/* One tile of one block of channels: from the sums at its places, to results [results y, results x]. */
INLINE void transform_output(int ny, int nx, int my, int mx, const float *from, int64_t place, channels *to)
{
    channels s[MOST_POINTS], y[MOST_POINTS], half[MOST_POINTS * MOST_POINTS];
    UNROLLED
    for (int i = 0; i < nx; i++) {
        UNROLLED
        for (int j = 0; j < ny; j++)
            s[j] = load(from + (j * nx + i) * place);
        from_points(ny, my, s, y);
        UNROLLED
        for (int j = 0; j < my; j++)
            half[j * nx + i] = y[j];
    }
    UNROLLED
    for (int j = 0; j < my; j++)
        from_points(nx, mx, half + j * nx, to + j * mx);
}

/* ---------------------------------------------------------------- running */

/* Where a tile lies: the first result's row and column. */
typedef struct {
    int64_t n, y, x;
} tile_place;

static inline tile_place place_of(const winograd_plan *w, int64_t row, int64_t column)
{
    return (tile_place){row / w->y.tiles, row % w->y.tiles * w->y.results, column * w->x.results};
}

/* Neighbouring tiles of one block of channels, by the sizes of the plan. */
SHARED void transform_inputs_of(const winograd_plan *w, const float *from, int64_t row, int64_t count, float *to)
{
    const int64_t step = w->x.results * BLOCK, place = w->input_floats;
    if (w->y.points == 1)
        transform_inputs(1, 6, from, row, step, count, to, place);
    else if (w->x.points == 1)
        transform_inputs(6, 1, from, row, step, count, to, place);
    else if (w->y.points == 4)
        transform_inputs(4, 4, from, row, step, count, to, place);
    else
        transform_inputs(6, 6, from, row, step, count, to, place);
}

/* All tiles of a chunk, to [place, input block, tile, channel]; what lies outside of the image is zero. */
SHARED void transform_chunk(const convolution_plan *p, const winograd_plan *w, const float *input, int64_t group,
                            int64_t row0, int64_t column0, int64_t rows, int64_t columns, float *to)
{
    const int64_t plane = p->input_height * p->input_width * BLOCK, line = p->input_width * BLOCK;
    const int ny = w->y.points, nx = w->x.points;
    float border[MOST_POINTS * MOST_POINTS * BLOCK];
    /* columns whose tiles lie inside of the image */
    int64_t first = clamp(quotient_up(p->left, w->x.results) - column0, 0, columns), room = p->input_width + p->left - nx;
    int64_t beyond = clamp((room < 0 ? 0 : room / w->x.results + 1) - column0, first, columns);
    for (int64_t ib = 0; ib < p->input_blocks; ib++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c++, to += BLOCK) {
                tile_place at = place_of(w, row0 + r, column0 + c);
                int64_t y = at.y - p->top, x = at.x - p->left;
                const float *image = input + ((at.n * p->groups + group) * p->input_blocks + ib) * plane;
                if (c == first && beyond > first && y >= 0 && y + ny <= p->input_height) {
                    transform_inputs_of(w, image + y * line + x * BLOCK, line, beyond - first, to);
                    c = beyond - 1;
                    to += (beyond - first - 1) * BLOCK;
                    continue;
                }
                memset(border, 0, sizeof border);
                int64_t begin = clamp(-x, 0, nx), end = clamp(p->input_width - x, begin, nx);
                for (int64_t j = clamp(-y, 0, ny); j < ny && y + j < p->input_height; j++)
                    memcpy(border + (j * nx + begin) * BLOCK, image + (y + j) * line + (x + begin) * BLOCK,
                           (size_t)((end - begin) * BLOCK) * sizeof *border);
                transform_inputs_of(w, border, nx * BLOCK, 1, to);
            }
}

/* Results of a tile tap by tap: what is infinite stays where it belongs. */
SHARED void compute_tile_again(const convolution_plan *p, const float *image, const float *weights, int64_t y0, int64_t x0,
                               int64_t rows, int64_t columns, int64_t to_row, channels *to)
{
    const int64_t plane = p->input_height * p->input_width * BLOCK;
    for (int64_t y = y0; y < y0 + rows; y++)
        for (int64_t x = x0; x < x0 + columns; x++) {
            channels sum = {0};
            for (int64_t ib = 0; ib < p->input_blocks; ib++)
                for (int64_t j = 0; j < p->kernel_height; j++)
                    for (int64_t i = 0; i < p->kernel_width; i++) {
                        int64_t v = y * p->stride_y + j * p->dilation_y - p->top;
                        int64_t h = x * p->stride_x + i * p->dilation_x - p->left;
                        if (v < 0 || h < 0 || v >= p->input_height || h >= p->input_width)
                            continue;
                        const float *from = image + ib * plane + (v * p->input_width + h) * BLOCK;
                        const float *w = weights + ((ib * p->kernel_height + j) * p->kernel_width + i) * BLOCK * BLOCK;
                        for (int64_t c = 0; c < BLOCK; c++)
                            sum += from[c] * load(w + c * BLOCK);
                    }
            to[(y - y0) * to_row + x - x0] = sum;
        }
}

INLINE int any_not_zero(channels x)
{
#if defined(__AVX512F__) && BLOCK == 16
    return _mm512_cmp_ps_mask((__m512)x, _mm512_setzero_ps(), _CMP_NEQ_UQ) != 0;
#else
    int any = 0;
    for (int k = 0; k < BLOCK; k++)
        any |= !(x[k] == 0);
    return any;
#endif
}

/* A row of tiles of one output block. */
typedef struct {
    const convolution_call *call;
    const winograd_plan *w;
    const float *sums;
    int64_t group, block;
    tile_place at; /* the first one */
    int64_t columns;
} tile_row;

/* Transforms sums back, finishes the results and stores them. */
INLINE void finish_row(int ny, int nx, int my, int mx, const tile_row *row)
{
    const convolution_call *call = row->call;
    const convolution_plan *p = call->p;
    const int bounds = p->low > -INFINITY || p->high < INFINITY;
    const int64_t channel = (row->at.n * p->groups + row->group) * p->output_blocks + row->block;
    const int64_t high = least(my, p->height - row->at.y), line = p->width * BLOCK;
    const channels bias = load(call->bias ? call->bias + (row->group * p->output_blocks + row->block) * BLOCK : NO_BIAS);
    int64_t place = (channel * p->height + row->at.y) * line + row->at.x * BLOCK;
    for (int64_t c = 0; c < row->columns; c++, place += mx * BLOCK) {
        const int64_t x0 = row->at.x + c * mx, wide = least(mx, p->width - x0);
        channels results[MOST_POINTS * MOST_POINTS], finite = all(0);
        transform_output(ny, nx, my, mx, row->sums + c * BLOCK, row->w->product_floats, results);
        UNROLLED
        for (int i = 0; i < my * mx; i++)
            finite += results[i] * 0.0F;
        if (any_not_zero(finite))
            compute_tile_again(p,
                               call->input + (row->at.n * p->groups + row->group) * p->input_blocks * p->input_height
                                                 * p->input_width * BLOCK,
                               call->given + (row->group * p->output_blocks + row->block) * p->input_blocks
                                                 * p->kernel_height * p->kernel_width * BLOCK * BLOCK,
                               row->at.y, x0, high, wide, mx, results);
        for (int64_t y = 0; y < high; y++)
            for (int64_t x = 0; x < wide; x++) {
                channels result = results[y * mx + x] + bias;
                if (call->sum)
                    result += load(call->sum + place + y * line + x * BLOCK);
                if (bounds)
                    result = bounded(result, p->low, p->high);
                store(call->result + place + y * line + x * BLOCK, result);
            }
    }
}

SHARED void finish_row_of(const tile_row *row)
{
    const cut *y = &row->w->y, *x = &row->w->x;
    const int few = y->results == 2 || x->results == 2;
    if (y->points == 1 && few)
        finish_row(1, 6, 1, 2, row);
    else if (y->points == 1)
        finish_row(1, 6, 1, 4, row);
    else if (x->points == 1 && few)
        finish_row(6, 1, 2, 1, row);
    else if (x->points == 1)
        finish_row(6, 1, 4, 1, row);
    else if (y->points == 4)
        finish_row(4, 4, 2, 2, row);
    else if (few)
        finish_row(6, 6, 2, 2, row);
    else
        finish_row(6, 6, 4, 4, row);
}

#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif

/* One task: a chunk of tiles of a group, with all output channels. */
SHARED int run_winograd(const convolution_call *call, const winograd_plan *w, int64_t task)
{
    const convolution_plan *p = call->p;
    int64_t column0 = task % w->column_chunks * w->columns, rest = task / w->column_chunks;
    int64_t row0 = rest % w->row_chunks * w->rows, group = rest / w->row_chunks;
    int64_t rows = least(w->rows, p->batch * w->y.tiles - row0), columns = least(w->columns, w->x.tiles - column0);
    int64_t count = rows * columns, places = w->y.points * w->x.points, square = BLOCK * BLOCK;
    float *scratch = take_scratch(places * (w->input_floats + w->product_floats) * (int64_t)sizeof *scratch);
    if (!scratch)
        return 0;
    float *sums = scratch + places * w->input_floats;
    transform_chunk(p, w, call->input, group, row0, column0, rows, columns, scratch);
    tile t;
    memset(&t, 0, sizeof t);
    t.input_block = count * BLOCK;
    t.pixel = BLOCK;
    t.taps_y = t.taps_x = 1;
    t.blocks = p->input_blocks;
    t.length = BLOCK;
    t.step = 1;
    t.weights_tap = t.weights_row = t.weights_input = square;
    t.weights_output = p->input_blocks * square;
    t.result_block = count * BLOCK;
    t.start = NO_BIAS;
    t.first = t.last = 1;
    for (int64_t ob = 0, next; ob < p->output_blocks; ob = next) {
        int64_t kind = quotient_up(p->output_blocks - ob, quotient_up(p->output_blocks - ob, MOST_BLOCKS));
        while (!w->tiles->tile[kind][1])
            kind--;
        next = ob + kind;
        const tile_function *functions = w->tiles->tile[kind];
        int64_t at_once = best_tile(functions, count);
        for (int64_t place = 0; place < places; place++) {
            t.input = scratch + place * w->input_floats;
            t.weights = call->packed + ((place * p->groups + group) * p->output_blocks + ob) * t.weights_output;
            t.result = sums + place * w->product_floats;
            run_pixels(&t, functions, at_once, 0, 0, count);
        }
        for (int64_t b = 0; b < kind; b++)
            for (int64_t r = 0; r < rows; r++)
                finish_row_of(&(tile_row){call, w, sums + (b * rows + r) * columns * BLOCK, group, ob + b,
                                          place_of(w, row0 + r, column0), columns});
    }
    give_scratch(scratch);
    for (int64_t r = 0; call->epilogue && r < rows; r++) {
        tile_place at = place_of(w, row0 + r, column0);
        run_chunk_epilogue(call, (at.n * p->groups + group) * p->output_blocks, BLOCK, p->output_blocks, at.y, at.x,
                           least(w->y.results, p->height - at.y), least(columns * w->x.results, p->width - at.x));
    }
    return 1;
}
