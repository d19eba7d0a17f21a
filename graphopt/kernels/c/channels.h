/* Sums of the squares of the channels around each, as a local response normalization takes them.
 *
 * Where channels are planes, a channel is a row of pixels, and rows are added. In the blocked layout channels lie side by
 * side: the squares of all channels of a pixel are put in a row, with zeros at its ends, and shifted rows are added. What
 * alone reads the sums and is one flat loop (the normalization itself) is computed of each run of them as soon as it is there.
 */

enum { ROW_PIXELS = 4096, CHANNELS_AT_ONCE = 16, BLOCKED_FLOATS = 6144, PIXELS_AT_ONCE = 8 };

typedef struct {
    int blocked;
    int operand, sums; /* tensors */
    int64_t size, before;
    int64_t batch, channels, pixels;
    int64_t chunk, chunks; /* pixels of a unit; chunks of an image */
    int64_t parts;         /* of the channels, a unit each */
    flat_epilogue epilogue;
} channel_state;

/* to = the sum of the squares of some rows, or to += that. */
ALWAYS void add_squares(const int rows, const int first, int64_t n, const float *x, int64_t step, float *to)
{
    VECTORISED
    for (int64_t i = 0; i < n; i++) {
        float sum = x[i] * x[i];
        if (rows > 1)
            sum = MULTIPLY_ADD(x[i + step], x[i + step], sum);
        if (rows > 2)
            sum = MULTIPLY_ADD(x[i + 2 * step], x[i + 2 * step], sum);
        if (rows > 3)
            sum = MULTIPLY_ADD(x[i + 3 * step], x[i + 3 * step], sum);
        if (rows > 4)
            sum = MULTIPLY_ADD(x[i + 4 * step], x[i + 4 * step], sum);
        to[i] = first ? sum : to[i] + sum;
    }
}

/* A chunk of the pixels of some plain channels. */
SHARED void sum_plain_channels(const channel_state *s, int64_t image, int64_t first, int64_t last, int64_t pixel, void *const *tensors)
{
    const float *x = (const float *)tensors[s->operand] + image * s->channels * s->pixels + pixel;
    float *sums = tensors[s->sums];
    const int64_t n = least(s->chunk, s->pixels - pixel);
    for (int64_t c = first; c < last; c++) {
        const int64_t at = (image * s->channels + c) * s->pixels + pixel;
        const int64_t begin = c > s->before ? c - s->before : 0, end = least(c - s->before + s->size, s->channels);
        for (int64_t k = begin; k < end;) {
            const float *row = x + k * s->pixels;
            const int64_t rows = end - k >= 5 ? 5 : end - k >= 3 ? 3 : 1;
            if (k == begin && rows == 5)
                add_squares(5, 1, n, row, s->pixels, sums + at);
            else if (k == begin && rows == 3)
                add_squares(3, 1, n, row, s->pixels, sums + at);
            else if (k == begin)
                add_squares(1, 1, n, row, s->pixels, sums + at);
            else if (rows == 5)
                add_squares(5, 0, n, row, s->pixels, sums + at);
            else
                add_squares(1, 0, n, row, s->pixels, sums + at);
            k += k == begin || rows == 5 ? rows : 1;
        }
        run_flat_epilogue(&s->epilogue, tensors, sums, at, n);
    }
}

/* A chunk of the pixels of all channels of the blocked layout. */
SHARED int sum_blocked_channels(const channel_state *s, int64_t image, int64_t pixel, void *const *tensors)
{
    const int64_t blocks = s->channels / BLOCK, n = least(s->chunk, s->pixels - pixel), lead = quotient_up(s->before, BLOCK) * BLOCK;
    const int64_t row = lead + s->channels + quotient_up(s->size, BLOCK) * BLOCK;
    const int64_t start = (image * blocks * s->pixels + pixel) * BLOCK, plane = s->pixels * BLOCK;
    float *squares = take_scratch(PIXELS_AT_ONCE * row * (int64_t)sizeof *squares), *sums = tensors[s->sums];
    if (!squares)
        return 0;
    memset(squares, 0, (size_t)(PIXELS_AT_ONCE * row) * sizeof *squares);
    for (int64_t first = 0; first < n; first += PIXELS_AT_ONCE) {
        const int64_t count = least(PIXELS_AT_ONCE, n - first), at = start + first * BLOCK;
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t p = 0; p < count; p++) {
                channels x = load((const float *)tensors[s->operand] + at + b * plane + p * BLOCK);
                store(squares + p * row + lead + b * BLOCK, x * x);
            }
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t p = 0; p < count; p++) {
                const float *from = squares + p * row + lead + b * BLOCK - s->before;
                channels sum = load(from);
                for (int64_t k = 1; k < s->size; k++)
                    sum += load(from + k);
                store(sums + at + b * plane + p * BLOCK, sum);
            }
    }
    give_scratch(squares);
    for (int64_t b = 0; b < blocks; b++)
        run_flat_epilogue(&s->epilogue, tensors, sums, start + b * plane, n * BLOCK);
    return 1;
}

SHARED const char *run_channels(const plan *p, const step *step, int64_t begin, int64_t end, void *const *tensors)
{
    const channel_state *s = step->state;
    (void)p;
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t part = unit % s->parts, chunk = unit / s->parts % s->chunks, image = unit / s->parts / s->chunks;
        const int64_t first = part * CHANNELS_AT_ONCE;
        if (!s->blocked)
            sum_plain_channels(s, image, first, least(first + CHANNELS_AT_ONCE, s->channels), chunk * s->chunk, tensors);
        else if (!sum_blocked_channels(s, image, chunk * s->chunk, tensors))
            return NO_MEMORY;
    }
    return NULL;
}

/* Plans sums of the squares of `size` channels around each, of an operand of shape x. */
SHARED const char *plan_channels(plan *p, const shape *x, int64_t size, int blocked, int operand, int sums)
{
    channel_state *s = calloc(1, sizeof *s);
    if (!s)
        return NO_MEMORY;
    s->blocked = blocked;
    s->operand = operand;
    s->sums = sums;
    s->size = size;
    s->before = (size - 1) / 2;
    s->batch = x->size[0];
    s->channels = x->size[1];
    s->pixels = 1;
    for (int d = 2; d < x->rank; d++)
        s->pixels *= x->size[d];
    const int64_t total = elements(x);
    if (total == 0) {
        free(s);
        return NULL;
    }
    s->chunk = blocked ? clamp(BLOCKED_FLOATS / s->channels, PIXELS_AT_ONCE, s->pixels < PIXELS_AT_ONCE ? PIXELS_AT_ONCE : s->pixels) : ROW_PIXELS;
    s->chunk = quotient_up(s->chunk, PIXELS_AT_ONCE) * PIXELS_AT_ONCE;
    s->chunks = quotient_up(s->pixels, s->chunk);
    s->parts = blocked ? 1 : quotient_up(s->channels, CHANNELS_AT_ONCE);
    return add_step(p, (step){run_channels, free, s, s->batch * s->chunks * s->parts, total * 8, 0});
}
