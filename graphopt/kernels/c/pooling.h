/* Pools: the greatest or the mean element under a window that slides over an image.
 *
 * A window is combined in two passes. First its rows: element by element, for as many columns as the image has. That is a flat
 * loop in either layout, and goes to a row that stays in the first-level cache, with what stands for padding at both ends.
 * Then its columns, from that row. So k x k taps take 2 k operations for each element.
 */

/* What the operator says. Dimensions of one-dimensional pools: height 1. */
typedef struct {
    int maximum;    /* or the mean */
    int dimensions; /* 1 or 2 */
    int blocked;    /* the operator of onnxruntime's blocked layout */
    int same;       /* 0: pads as given; 1: auto_pad SAME_UPPER; 2: SAME_LOWER */
    int rounds_up;  /* a last window may reach beyond the padding */
    int counts_pads; /* the mean divides by all taps */
    int64_t kernel[2], stride[2], dilation[2], before[2], after[2];
} pool;

typedef struct {
    const pool *what;
    int operand, result; /* tensors */
    int64_t planes, height, width, rows, columns, top, left; /* rows and columns: of the result */
    int64_t line; /* columns of the row between the passes */
    float inside[]; /* for each column of the result the taps inside of the image */
} pool_state;

/* Size of the result along one dimension, and the padding in front; 0 where the shapes contradict each other. */
SHARED int pool_positions(const pool *c, int d, int64_t size, int64_t *before, int64_t *result)
{
    const int64_t span = (c->kernel[d] - 1) * c->dilation[d] + 1, stride = c->stride[d];
    if (c->same) {
        *result = quotient_up(size, stride);
        int64_t padding = (*result - 1) * stride + span - size;
        padding = padding < 0 ? 0 : padding;
        *before = c->same == 1 ? padding / 2 : padding - padding / 2;
        return 1;
    }
    const int64_t rest = size + c->before[d] + c->after[d] - span;
    *before = c->before[d];
    *result = rest / stride + 1; /* as onnxruntime counts where the window is larger than the image: towards zero */
    if (c->rounds_up && rest > 0 && rest % stride && *result * stride < size + c->before[d])
        ++*result;
    return *result >= 0 && (rest >= 0 || !c->counts_pads);
}

static inline int pool_sizes(const pool *c, const shape *x, int64_t *before, int64_t *result)
{
    const int rank = c->dimensions + 2;
    before[0] = 0;
    result[0] = 1;
    return x->rank == rank && (rank == 3 || pool_positions(c, 0, x->size[2], &before[0], &result[0]))
           && pool_positions(c, 1, x->size[rank - 1], &before[1], &result[1]) && (!c->blocked || x->size[1] % BLOCK == 0);
}

SHARED const char *shape_pool(const pool *c, const shape *x, shape *result)
{
    int64_t before[2], sizes[2];
    if (!pool_sizes(c, x, before, sizes))
        return "a pool whose window does not fit its input";
    *result = *x;
    result->size[2] = sizes[0];
    result->size[x->rank - 1] = sizes[1];
    return NULL;
}

ALWAYS float pooled(const int maximum, float a, float b)
{
    return maximum ? maximum_f32(a, b) : a + b;
}

/* to[i] = a combination of taps x[i * step + k * gap], of vectors of so many lanes. */
ALWAYS void combine_taps(const int maximum, const int lanes, const int64_t step, int64_t count, int64_t taps, int64_t gap,
                         const float *x, float *to)
{
    int64_t k = taps >= 3 ? 3 : taps;
    if (k == 3) {
        for (int64_t i = 0; i < count; i++) {
            VECTORISED
            for (int lane = 0; lane < lanes; lane++) {
                const float *from = x + i * step * lanes + lane;
                to[i * lanes + lane] = pooled(maximum, pooled(maximum, from[0], from[gap]), from[2 * gap]);
            }
        }
    } else if (k == 2) {
        for (int64_t i = 0; i < count; i++) {
            VECTORISED
            for (int lane = 0; lane < lanes; lane++) {
                const float *from = x + i * step * lanes + lane;
                to[i * lanes + lane] = pooled(maximum, from[0], from[gap]);
            }
        }
    } else {
        for (int64_t i = 0; i < count; i++) {
            VECTORISED
            for (int lane = 0; lane < lanes; lane++)
                to[i * lanes + lane] = x[i * step * lanes + lane];
        }
    }
    for (; k < taps; k++) {
        for (int64_t i = 0; i < count; i++) {
            VECTORISED
            for (int lane = 0; lane < lanes; lane++)
                to[i * lanes + lane] = pooled(maximum, to[i * lanes + lane], x[i * step * lanes + k * gap + lane]);
        }
    }
}

/* The same of elements that follow each other. */
ALWAYS void combine_flat(const int maximum, int64_t n, int64_t taps, int64_t gap, const float *x, float *to)
{
    int64_t k = taps >= 3 ? 3 : taps;
    if (k == 3) {
        VECTORISED
        for (int64_t i = 0; i < n; i++)
            to[i] = pooled(maximum, pooled(maximum, x[i], x[i + gap]), x[i + 2 * gap]);
    } else if (k == 2) {
        VECTORISED
        for (int64_t i = 0; i < n; i++)
            to[i] = pooled(maximum, x[i], x[i + gap]);
    } else {
        memcpy(to, x, (size_t)n * sizeof *to);
    }
    for (; k < taps; k++) {
        VECTORISED
        for (int64_t i = 0; i < n; i++)
            to[i] = pooled(maximum, to[i], x[i + k * gap]);
    }
}

/* Rows [begin, end) of the result, of all planes. */
ALWAYS void pool_rows(const pool_state *s, const int maximum, const int lanes, int64_t begin, int64_t end, float *line,
                      const float *x, float *to)
{
    const pool *c = s->what;
    const float none = maximum ? -FLT_MAX : 0.0f; /* the greatest of nothing, as in onnxruntime */
    const int64_t width = s->width * lanes, left = s->left * lanes, gap = c->dilation[1] * lanes, step = c->stride[1];
    for (int64_t i = 0; i < s->line * lanes; i++)
        line[i] = none;
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t plane = unit / s->rows, row = unit % s->rows, at = row * c->stride[0] - s->top;
        int64_t first, beyond;
        taps_inside(at, s->height, c->kernel[0], c->dilation[0], &first, &beyond);
        const float *from = x + (plane * s->height + (beyond > first ? at + first * c->dilation[0] : 0)) * width;
        float *result = to + unit * s->columns * lanes;
        if (beyond == first)
            for (int64_t i = 0; i < width; i++)
                line[left + i] = none;
        else if (beyond - first > 1 || s->line > s->width)
            combine_flat(maximum, width, beyond - first, c->dilation[0] * width, from, line + left);
        const float *combined = beyond - first == 1 && s->line <= s->width ? from : line;
        if (step == 1)
            combine_flat(maximum, s->columns * lanes, c->kernel[1], gap, combined, result);
        else if (step == 2)
            combine_taps(maximum, lanes, 2, s->columns, c->kernel[1], gap, combined, result);
        else
            combine_taps(maximum, lanes, step, s->columns, c->kernel[1], gap, combined, result);
        const float rows = (float)(c->counts_pads ? c->kernel[0] : beyond - first);
        for (int64_t i = 0; i < s->columns && !maximum; i++) {
            VECTORISED
            for (int lane = 0; lane < lanes; lane++)
                result[i * lanes + lane] /= rows * s->inside[i];
        }
    }
}

SHARED const char *run_pool(const plan *p, const step *step, int64_t begin, int64_t end, void *const *tensors)
{
    const pool_state *s = step->state;
    const float *x = tensors[s->operand];
    float *to = tensors[s->result];
    (void)p;
    float *line = take_scratch(s->line * (s->what->blocked ? BLOCK : 1) * (int64_t)sizeof *line);
    if (!line)
        return NO_MEMORY;
    if (s->what->blocked && s->what->maximum)
        pool_rows(s, 1, BLOCK, begin, end, line, x, to);
    else if (s->what->blocked)
        pool_rows(s, 0, BLOCK, begin, end, line, x, to);
    else if (s->what->maximum)
        pool_rows(s, 1, 1, begin, end, line, x, to);
    else
        pool_rows(s, 0, 1, begin, end, line, x, to);
    give_scratch(line);
    return NULL;
}

/* Plans a pool of an operand of shape x. */
SHARED const char *plan_pool(plan *p, const pool *c, const shape *x, int operand, int result)
{
    int64_t before[2], sizes[2];
    if (!pool_sizes(c, x, before, sizes))
        return "a pool whose window does not fit its input";
    pool_state *s = calloc(1, sizeof *s + (size_t)(sizes[1] > 0 ? sizes[1] : 0) * sizeof(float));
    if (!s)
        return NO_MEMORY;
    s->what = c;
    s->operand = operand;
    s->result = result;
    s->planes = x->size[0] * x->size[1] / (c->blocked ? BLOCK : 1);
    s->height = c->dimensions == 1 ? 1 : x->size[2];
    s->width = x->size[x->rank - 1];
    s->rows = sizes[0];
    s->columns = sizes[1];
    s->top = before[0];
    s->left = before[1];
    if (s->planes * s->rows * s->columns <= 0) {
        free(s);
        return NULL;
    }
    const int64_t needed = (s->columns - 1) * c->stride[1] + (c->kernel[1] - 1) * c->dilation[1] + 1;
    s->line = needed > s->left + s->width ? needed : s->left + s->width;
    for (int64_t i = 0; i < s->columns; i++) {
        int64_t first, end;
        taps_inside(i * c->stride[1] - s->left, s->width, c->kernel[1], c->dilation[1], &first, &end);
        s->inside[i] = (float)(c->counts_pads ? c->kernel[1] : end - first);
    }
    const int64_t work = s->planes * s->rows * (s->width * c->kernel[0] + s->columns * c->kernel[1]) * (c->blocked ? BLOCK : 1);
    return add_step(p, (step){run_pool, free, s, s->planes * s->rows, work, 0});
}
