/* Columns: steps that put rows on top of each other: reductions of other axes than the last.
 *
 * What is reduced has the shape outer x depth x width, and the result outer x width. The generated function takes up to
 * STACKED_ROWS rows of a strip of columns and combines them element by element, so that all work runs along the columns
 * whatever is reduced. Rows may lie anywhere: a row that an index picks is read where it lies.
 */

/* Combines `rows` rows of `width` columns into the totals in scratch; the last call stores the results. rows[i] holds the
 * address of each row of load i. */
typedef void (*column_function)(int64_t rows, int64_t width, int64_t depth, const void *const (*loads)[STACKED_ROWS],
                                void *const *stores, void *scratch, int first, int last);

typedef struct {
    place_function place;
    column_function compute;
    int loads;
    const int *tensors;         /* tensor of each load */
    const int *bytes;           /* element size of each load */
    const int *index;           /* for a lookup the load of its indices, -1 for others */
    const unsigned char *only;  /* loads that are only indices of lookups */
    int stores;
    const int *store_tensors, *store_bytes;
    int cost; /* rough operations per element */
} column_kernel;

/* An operand of a step; steps in elements. */
typedef struct {
    int64_t base, outer[MAX_LOOPS], depth[MAX_LOOPS], column;
    int64_t stride, size; /* of a lookup */
    int packed;           /* whether its columns do not lie side by side, so that rows are copied */
} column_access;

/* State of a step over columns. */
typedef struct {
    const column_kernel *what;
    int64_t depth, width, strip, strips;
    int outers, depths;
    int64_t outer_count[MAX_LOOPS], depth_count[MAX_LOOPS];
    column_access store, *load;
} column_step;

#if !defined(KERNELS_ONLY)
static void free_columns(void *state)
{
    column_step *x = state;
    free(x->load);
    free(x);
}

/* Elements from the first row to row n. */
static inline int64_t rows_further(const column_step *x, const column_access *a, int64_t n)
{
    if (x->depths == 1)
        return n * a->depth[0];
    int64_t from = 0;
    for (int k = x->depths - 1; k >= 0; k--) {
        from += n % x->depth_count[k] * a->depth[k];
        n /= x->depth_count[k];
    }
    return from;
}

/* A block of rows of one strip of columns of one outer index, and where its operands lie. */
typedef struct {
    int64_t unit, first, count, width, at, outer[MAX_OPERANDS];
    const void *rows[MAX_OPERANDS][STACKED_ROWS];
} row_block;

/* Finds the rows of load i of a block. Rows that are picked come from far: they are fetched ahead. */
static const char *find_rows(const column_step *x, int i, row_block *b, void *const *tensors, unsigned char *room)
{
    const column_kernel *what = x->what;
    const column_access *a = &x->load[i];
    const int j = what->index[i], bytes = what->bytes[i];
    const unsigned char *data = (const unsigned char *)tensors[what->tensors[i]] + b->outer[i] * bytes;
    if (j >= 0 && x->depths <= 1 && !a->packed) {
        int64_t step = x->depths ? a->depth[0] : 0, index_step = x->depths ? x->load[j].depth[0] : 0;
        int64_t at = b->outer[j] + b->first * index_step;
        const void *index = tensors[what->tensors[j]];
        data += b->first * step * bytes;
        int found = what->bytes[j] == 4
                        ? find_picked_int32_t(b->rows[i], b->count, (const int32_t *)index + at, index_step, data,
                                              step * bytes, a->stride * bytes, a->size, b->width * bytes)
                        : find_picked_int64_t(b->rows[i], b->count, (const int64_t *)index + at, index_step, data,
                                              step * bytes, a->stride * bytes, a->size, b->width * bytes);
        return found ? NULL : OUT_OF_RANGE;
    }
    if (j < 0 && x->depths <= 1 && !a->packed) {
        const int64_t step = (x->depths ? a->depth[0] : 0) * bytes;
        data += b->first * step;
        for (int64_t r = 0; r < b->count; r++)
            b->rows[i][r] = data + r * step;
        return NULL;
    }
    for (int64_t r = 0; r < b->count; r++) {
        int64_t from = rows_further(x, a, b->first + r);
        if (j >= 0) {
            int64_t at = b->outer[j] + rows_further(x, &x->load[j], b->first + r);
            int64_t picked = picked_row(tensors[what->tensors[j]], what->bytes[j], at, a->size);
            if (picked < 0)
                return OUT_OF_RANGE;
            from += picked * a->stride;
            for (int64_t line = 0; line < b->width * bytes; line += CACHE_LINE)
                __builtin_prefetch(data + from * bytes + line);
        }
        b->rows[i][r] = data + from * bytes;
        if (a->packed) {
            unsigned char *to = room + r * x->strip * bytes;
            pack(bytes, to, 0, 1, b->rows[i][r], 0, a->column, 1, b->width);
            b->rows[i][r] = to;
        }
    }
    return NULL;
}

/* Finds all operands of the block that begins at row `first` of a unit. */
static const char *find_block(const column_step *x, int64_t unit, int64_t first, void *const *tensors,
                              unsigned char *room, row_block *b)
{
    const column_kernel *what = x->what;
    const char *error = NULL;
    int64_t t = unit, c0 = 0;
    if (x->strips > 1) {
        t = unit / x->strips;
        c0 = unit % x->strips * x->strip;
    }
    b->unit = unit;
    b->first = first;
    b->count = x->depth - first < STACKED_ROWS ? x->depth - first : STACKED_ROWS;
    b->width = x->width - c0 < x->strip ? x->width - c0 : x->strip;
    b->at = x->store.base + c0 * x->store.column;
    for (int i = 0; i < what->loads; i++)
        b->outer[i] = x->load[i].base + c0 * x->load[i].column;
    for (int k = x->outers - 1; k >= 0; k--) {
        int64_t count = t;
        if (k > 0) { /* divisions take long where rows are few */
            count = t % x->outer_count[k];
            t /= x->outer_count[k];
        }
        b->at += count * x->store.outer[k];
        for (int i = 0; i < what->loads; i++)
            b->outer[i] += count * x->load[i].outer[k];
    }
    for (int i = 0; i < what->loads && !error; i++)
        if (!what->only[i]) {
            error = find_rows(x, i, b, tensors, room);
            if (x->load[i].packed)
                room = aligned_after(room, (size_t)(x->strip * what->bytes[i] * STACKED_ROWS));
        }
    return error;
}

static const char *run_columns(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors)
{
    const column_step *x = s->state;
    const column_kernel *what = x->what;
    (void)p;
    int64_t packed = ALIGNMENT, totals = (x->strip * 8 + 2 * ALIGNMENT) * what->stores + ALIGNMENT;
    for (int i = 0; i < what->loads; i++)
        packed += x->load[i].packed ? x->strip * what->bytes[i] * STACKED_ROWS + ALIGNMENT : 0;
    unsigned char *scratch = take_scratch(totals + 2 * packed);
    if (!scratch)
        return NO_MEMORY;
    unsigned char *room = aligned_after(scratch, (size_t)totals);
    row_block blocks[2];
    const char *error = begin < end ? find_block(x, begin, 0, tensors, room, &blocks[0]) : NULL;
    for (int64_t n = 0, unit = begin; unit < end && !error; n++) {
        const row_block *b = &blocks[n % 2];
        int last = b->first + b->count == x->depth;
        unit += last;
        if (unit < end) /* the next block is found before this one is computed */
            error = find_block(x, unit, last ? 0 : b->first + b->count, tensors, room + (n + 1) % 2 * packed,
                               &blocks[(n + 1) % 2]);
        void *stores[MAX_OPERANDS];
        for (int i = 0; i < what->stores; i++)
            stores[i] = (unsigned char *)tensors[what->store_tensors[i]] + b->at * what->store_bytes[i];
        what->compute(b->count, b->width, x->depth, (const void *const(*)[STACKED_ROWS])b->rows, stores, scratch,
                      b->first == 0, last);
    }
    give_scratch(scratch);
    return error;
}
#endif

/* Plans a step over outer x depth x width elements; does_not_fit where an operand does not lie in one box of loops. */
SHARED const char *plan_columns(plan *p, const column_kernel *what, int64_t outer, int64_t depth, int64_t width,
                                const void *frame)
{
    if (outer == 0 || width == 0)
        return NULL;
    column_step *x = calloc(1, sizeof *x);
    load_place *place = calloc((size_t)what->loads + 1, sizeof *place);
    if (x)
        x->load = calloc((size_t)what->loads + 1, sizeof *x->load);
    const char *error = x && x->load && place ? NULL : NO_MEMORY;
    domain d;
    affine store;
    memset(&d, 0, sizeof d);
    memset(&store, 0, sizeof store);
    d.loops = 3;
    d.count[0] = outer;
    d.step[0] = depth * width;
    d.count[1] = depth;
    d.step[1] = width;
    d.count[2] = width;
    d.step[2] = 1;
    int begin[3] = {0, 1, 2}; /* first of the loops over outer, depth and width */
    verdict v = DONE;
    while (!error && depth > 0 && (v = what->place(&d, frame, &store, place)) == REFINE) {
        begin[1] += d.at_loop < begin[1];
        begin[2] += d.at_loop < begin[2];
        refine(&d);
    }
    if (!error && v != DONE)
        error = v == INVALID ? OUT_OF_RANGE : does_not_fit(p);
    int inner = -1; /* the loop over the columns */
    for (int k = begin[2]; k < d.loops && !error; k++)
        if (d.count[k] > 1) {
            if (inner >= 0) { /* two loops are one where every operand walks them so */
                int one = store.step[inner] == store.step[k] * d.count[k];
                for (int i = 0; i < what->loads; i++)
                    one = one && place[i].at.step[inner] == place[i].at.step[k] * d.count[k];
                if (!one)
                    error = does_not_fit(p);
            }
            inner = k;
        }
    for (int i = 0; i < what->loads && inner >= 0 && !error; i++)
        if (what->only[i] && place[i].at.step[inner] != 0)
            error = does_not_fit(p); /* an index for each element: no rows to pick */
    if (!error && depth > 0 && inner >= 0 && store.step[inner] != 1)
        error = does_not_fit(p);
    if (error) {
        free(place);
        if (x)
            free_columns(x);
        return error;
    }
    x->what = what;
    x->depth = depth;
    x->width = width;
    x->strip = width < STRIP ? width : STRIP;
    x->strips = (width + x->strip - 1) / x->strip;
    if (depth == 0) { /* nothing is read */
        x->outers = 1;
        x->outer_count[0] = outer;
        x->store.outer[0] = width;
        x->store.column = 1;
    } else {
        for (int i = -1; i < what->loads; i++) {
            column_access *a = i < 0 ? &x->store : &x->load[i];
            const affine *at = i < 0 ? &store : &place[i].at;
            a->base = at->base;
            x->outers = x->depths = 0;
            for (int k = 0; k < begin[2]; k++) {
                int64_t *count = k < begin[1] ? x->outer_count : x->depth_count;
                int64_t *step = k < begin[1] ? a->outer : a->depth;
                int *loops = k < begin[1] ? &x->outers : &x->depths;
                if (d.count[k] == 1)
                    continue;
                count[*loops] = d.count[k];
                step[(*loops)++] = at->step[k];
            }
            a->column = inner >= 0 ? at->step[inner] : 1;
            a->stride = i < 0 ? 0 : place[i].stride;
            a->size = i < 0 ? 0 : place[i].size;
            a->packed = i >= 0 && !what->only[i] && a->column != 1;
        }
    }
    free(place);
    int64_t units = outer * x->strips;
    return add_step(p, (step){run_columns, free_columns, x, units, outer * (depth + 1) * (width + 8) * what->cost, 0});
}

/* Sums of up to STACKED_ROWS rows of floats, in registers. */
typedef float half_vector_f32 __attribute__((vector_size(32)));
typedef float quarter_vector_f32 __attribute__((vector_size(16)));
#define SUM_ROWS(vector, from)                                                                                         \
    do { /* four sums at a time: an addition waits for the one before it */                                            \
        vector a, v[4] = {{0}, {0}, {0}, {0}};                                                                         \
        int64_t r = 0;                                                                                                 \
        for (; r + 4 <= rows; r += 4)                                                                                  \
            for (int k = 0; k < 4; k++) {                                                                              \
                memcpy(&a, (const float *)row[r + k] + (from), sizeof a);                                              \
                v[k] += a;                                                                                             \
            }                                                                                                          \
        for (; r < rows; r++) {                                                                                        \
            memcpy(&a, (const float *)row[r] + (from), sizeof a);                                                      \
            v[0] += a;                                                                                                 \
        }                                                                                                              \
        a = (v[0] + v[1]) + (v[2] + v[3]);                                                                             \
        memcpy(sum + (from), &a, sizeof a);                                                                            \
    } while (0)
/* A last vector that is not full overlaps the one before it. */
ALWAYS void sum_rows_f32(int64_t rows, int64_t width, const void *const *row, float *sum)
{
    int64_t c = 0;
    for (; c + 2 * LANES <= width; c += 2 * LANES) {
        vector_f32 a, b, v, w;
        memcpy(&a, (const float *)row[0] + c, sizeof a);
        memcpy(&b, (const float *)row[0] + c + LANES, sizeof b);
        for (int64_t r = 1; r < rows; r++) {
            memcpy(&v, (const float *)row[r] + c, sizeof v);
            memcpy(&w, (const float *)row[r] + c + LANES, sizeof w);
            a += v;
            b += w;
        }
        memcpy(sum + c, &a, sizeof a);
        memcpy(sum + c + LANES, &b, sizeof b);
    }
    if (width >= LANES) {
        if (c + LANES < width)
            SUM_ROWS(vector_f32, c);
        if (c < width)
            SUM_ROWS(vector_f32, width - LANES);
    } else if (width >= LANES / 2) {
        SUM_ROWS(half_vector_f32, 0);
        SUM_ROWS(half_vector_f32, width - LANES / 2);
    } else if (width >= LANES / 4) {
        SUM_ROWS(quarter_vector_f32, 0);
        SUM_ROWS(quarter_vector_f32, width - LANES / 4);
    } else {
        for (; c < width; c++) {
            float a = *((const float *)row[0] + c);
            for (int64_t r = 1; r < rows; r++)
                a += *((const float *)row[r] + c);
            sum[c] = a;
        }
    }
}
