/* Rows: steps that work on blocks of rows.
 *
 * The values of such a step are wide (rows x columns elements) or narrow (one for each row). The generated function
 * takes a block of rows through its phases: element-wise loops over the columns, reductions between them. Operands that
 * lie along the columns in memory are read in place; others (strided, broadcast, transposed, picked by an index) are
 * packed first. Every block is computed in the same way whoever runs it: results do not depend on the number of threads.
 */

/* row: elements from one row to the next; 0 where all rows are the same. */
typedef struct {
    void *data;
    int64_t row;
} operand;

typedef void (*row_function)(int64_t rows, int64_t columns, const operand *loads, const operand *stores, void *scratch);

typedef struct {
    place_function place;
    row_function compute;
    int loads;
    const int *tensors;        /* tensor of each load */
    const int *bytes;          /* element size of each load */
    const unsigned char *wide; /* loads with an element for each column; others have one for each row */
    const int *index;          /* for a lookup the load of its indices, -1 for others */
    const unsigned char *only; /* loads that are only indices of lookups */
    int stores;
    const int *store_tensors, *store_bytes;
    const unsigned char *store_wide;
    int kept_bytes; /* scratch that the function needs for each column */
    int cost;       /* rough operations per element */
} row_kernel;

/* An operand of a step; steps in elements. */
typedef struct {
    int64_t base, row, outer[MAX_LOOPS], column[MAX_LOOPS];
    int64_t stride, size; /* of a lookup */
    int64_t packed_at;    /* where in the scratch it is packed; -1 where it is read in place */
} row_access;

/* State of a step that works on rows. */
typedef struct {
    const row_kernel *what;
    int64_t columns, rows, block, blocks; /* rows and blocks: of the innermost loop over rows */
    int outers, inners;
    int64_t outer_count[MAX_LOOPS], outer_step[MAX_LOOPS]; /* loops over rows outside of it; steps in rows */
    int64_t inner_count[MAX_LOOPS], inner_step[MAX_LOOPS]; /* loops over columns; steps in columns */
    int64_t scratch;                                       /* bytes */
    row_access *load;
} row_step;

enum { PACKED_BYTES = 1 << 16, PACKED_ROWS = 64, BLOCK_WORK = 1 << 14 };

#if !defined(KERNELS_ONLY)
static void free_rows(void *state)
{
    row_step *x = state;
    free(x->load);
    free(x);
}

/* Packs `rows` rows of a load, beginning `from` elements into its tensor; `first` elements into that of its indices. */
static const char *pack_rows(const row_step *x, int i, int64_t rows, const unsigned char *data, int64_t from,
                             const void *indices, int64_t first, unsigned char *to)
{
    const row_kernel *what = x->what;
    const row_access *a = &x->load[i], *b = what->index[i] >= 0 ? &x->load[what->index[i]] : NULL;
    int bytes = what->bytes[i], index_bytes = b ? what->bytes[what->index[i]] : 0;
    int64_t last = x->inners ? x->inner_count[x->inners - 1] : 1, step = x->inners ? a->column[x->inners - 1] : 1;
    int64_t counter[MAX_LOOPS] = {0}, outers = 1;
    for (int k = 0; k + 1 < x->inners; k++)
        outers *= x->inner_count[k];
    for (int64_t n = 0; n < outers; n++) {
        int64_t at = 0, source = from, index = first;
        for (int k = 0; k + 1 < x->inners; k++) {
            at += counter[k] * x->inner_step[k];
            source += counter[k] * a->column[k];
            index += b ? counter[k] * b->column[k] : 0;
        }
        if (!b) {
            pack(bytes, to + at * bytes, x->columns, 1, data + source * bytes, a->row, step, rows, last);
        } else {
            access data_access = {0, step, a->row, a->stride, a->size, {0}};
            access index_access = {0, x->inners ? b->column[x->inners - 1] : 0, b->row, 0, 0, {0}};
            const char *error = pack_lookup(bytes, to + at * bytes, x->columns, data + source * bytes, &data_access,
                                            indices, index_bytes, index, &index_access, rows, last);
            if (error)
                return error;
        }
        for (int k = x->inners - 2; k >= 0; k--) {
            if (++counter[k] < x->inner_count[k])
                break;
            counter[k] = 0;
        }
    }
    return NULL;
}

static const char *run_row_units(const row_step *x, int64_t begin, int64_t end, unsigned char *scratch, void *const *tensors)
{
    const row_kernel *what = x->what;
    const unsigned char *packed[MAX_OPERANDS] = {0};
    int64_t packed_rows = 0;
    const char *error = NULL;
    for (int64_t unit = begin; unit < end && !error; unit++) {
        int64_t t = unit / x->blocks, r0 = unit % x->blocks * x->block, row = r0, counter[MAX_LOOPS];
        int64_t rows = x->rows - r0 < x->block ? x->rows - r0 : x->block;
        for (int k = x->outers - 1; k >= 0; k--) {
            counter[k] = t % x->outer_count[k];
            t /= x->outer_count[k];
            row += counter[k] * x->outer_step[k];
        }
        int64_t from[MAX_OPERANDS];
        operand loads[MAX_OPERANDS], stores[MAX_OPERANDS];
        for (int i = 0; i < what->loads; i++) {
            const row_access *a = &x->load[i];
            from[i] = a->base + r0 * a->row;
            for (int k = 0; k < x->outers; k++)
                from[i] += counter[k] * a->outer[k];
        }
        for (int i = 0; i < what->loads && !error; i++) {
            const row_access *a = &x->load[i];
            unsigned char *data = tensors[what->tensors[i]];
            if (a->packed_at < 0) {
                loads[i].data = data + from[i] * what->bytes[i];
                loads[i].row = a->row;
                continue;
            }
            unsigned char *to = scratch + a->packed_at;
            loads[i].data = to;
            loads[i].row = what->wide[i] ? x->columns : 1;
            if (what->index[i] >= 0) {
                int j = what->index[i];
                error = pack_rows(x, i, rows, data, from[i], tensors[what->tensors[j]], from[j], to);
            } else if (packed[i] != data + from[i] * what->bytes[i] || packed_rows < rows) {
                pack_rows(x, i, rows, data, from[i], NULL, 0, to);
                packed[i] = data + from[i] * what->bytes[i];
            }
        }
        packed_rows = rows;
        for (int i = 0; i < what->stores; i++) {
            int64_t width = what->store_wide[i] ? x->columns : 1;
            stores[i].data = (unsigned char *)tensors[what->store_tensors[i]] + row * width * what->store_bytes[i];
            stores[i].row = width;
        }
        if (!error)
            what->compute(rows, x->columns, loads, stores, scratch);
    }
    return error;
}

static const char *run_rows(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors)
{
    const row_step *x = s->state;
    (void)p;
    unsigned char *scratch = take_scratch(x->scratch);
    if (!scratch)
        return NO_MEMORY;
    const char *error = run_row_units(x, begin, end, scratch, tensors);
    give_scratch(scratch);
    return error;
}

/* Cuts rows into blocks, the units of the step, and its scratch. */
static void cut_rows(row_step *x, int64_t block)
{
    x->block = clamp(block, 1, x->rows);
    x->blocks = (x->rows + x->block - 1) / x->block;
    x->scratch = x->columns * x->what->kept_bytes + 8 * ALIGNMENT;
    x->scratch += x->what->kept_bytes / 4 * 2 * ALIGNMENT; /* every kept row is aligned */
    for (int i = 0; i < x->what->loads; i++)
        if (x->load[i].packed_at >= 0) {
            x->load[i].packed_at = (x->scratch + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
            x->scratch = x->load[i].packed_at + x->block * (x->what->wide[i] ? x->columns : 1) * x->what->bytes[i];
        }
}

#endif

/* Plans a step over rows x columns elements; does_not_fit where an operand does not lie in one box of loops. */
SHARED const char *plan_rows(plan *p, const row_kernel *what, int64_t rows, int64_t columns, const void *frame)
{
    row_step *x = calloc(1, sizeof *x);
    load_place *place = calloc((size_t)what->loads + 1, sizeof *place);
    if (x)
        x->load = calloc((size_t)what->loads + 1, sizeof *x->load);
    const char *error = x && x->load && place ? NULL : NO_MEMORY;
    domain d;
    affine store;
    memset(&d, 0, sizeof d);
    d.loops = 2;
    d.count[0] = rows;
    d.count[1] = d.step[1] = 1;
    d.step[0] = columns;
    d.count[1] = columns;
    verdict v = REFINE;
    int apart = 1; /* loops before this one are over rows */
    while (!error && rows > 0 && columns > 0 && (v = what->place(&d, frame, &store, place)) == REFINE) {
        apart += d.at_loop < apart;
        refine(&d);
    }
    if (!error && v == INVALID)
        error = OUT_OF_RANGE;
    if (!error && v != DONE && rows > 0 && columns > 0)
        error = does_not_fit(p);
    if (error || rows == 0) {
        free(place);
        if (x)
            free_rows(x);
        return error;
    }
    if (columns > 0) {
        memcpy(store.step, d.step, sizeof store.step);
        apart = coalesce(&d, apart, &store, place, what->loads);
    } else {
        d.loops = apart = 1;
    }
    x->what = what;
    x->columns = columns;
    x->rows = apart > 0 ? d.count[apart - 1] : 1;
    x->outers = apart > 0 ? apart - 1 : 0;
    x->inners = d.loops - apart;
    for (int k = 0; k < x->outers; k++) {
        x->outer_count[k] = d.count[k];
        x->outer_step[k] = d.step[k] / columns;
    }
    for (int k = 0; k < x->inners; k++) {
        x->inner_count[k] = d.count[apart + k];
        x->inner_step[k] = d.step[apart + k];
    }
    int64_t packed_bytes = 0;
    for (int i = 0; i < what->loads; i++) {
        row_access *a = &x->load[i];
        const affine *at = &place[i].at;
        a->base = at->base;
        a->stride = place[i].stride;
        a->size = place[i].size;
        a->row = apart > 0 ? at->step[apart - 1] : 0;
        memcpy(a->outer, at->step, sizeof a->outer);
        for (int k = 0; k < x->inners; k++)
            a->column[k] = at->step[apart + k];
        int flat = x->inners == 0 || (x->inners == 1 && a->column[0] == 1);
        int in_place = what->index[i] < 0 && (what->only[i] || !what->wide[i] || flat || columns == 0);
        a->packed_at = in_place ? -1 : 0;
        if (!in_place)
            packed_bytes += (what->wide[i] ? columns : 1) * what->bytes[i];
    }
    cut_rows(x, packed_bytes ? clamp(PACKED_BYTES / packed_bytes, 1, PACKED_ROWS) : BLOCK_WORK / (columns + 1));
    free(place);
    int64_t units = x->blocks;
    for (int k = 0; k < x->outers; k++)
        units *= x->outer_count[k];
    return add_step(p, (step){run_rows, free_rows, x, units, rows * (columns + 8) * what->cost, 0});
}

/* The index of the row, for values with one element for each: of a box of rows x columns. */
static inline index_map index_of_row(const domain *d, int64_t columns)
{
    index_map m;
    memset(&m, 0, sizeof m);
    m.rank = -1;
    m.row[0].base = d->base / columns;
    for (int k = 0; k < d->loops; k++)
        m.row[0].step[k] = d->step[k] / columns;
    return m;
}

/* The first aligned address that many bytes after another. */
static inline void *aligned_after(void *from, size_t bytes)
{
    uintptr_t address = (uintptr_t)from + bytes;
    return (void *)((address + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
}

/* The last columns of a chunk as one vector. It is copied as vectors are: what is stored in smaller pieces than it is
 * loaded waits for them. */
#define WIDTH(bytes) __attribute__((vector_size(bytes), aligned(1), may_alias))
typedef unsigned char bytes_16 WIDTH(16), bytes_32 WIDTH(32), bytes_64 WIDTH(64);

/* Copies LANES elements of 1, 2, 4 or 8 bytes. */
ALWAYS void copy_vector(void *to, const void *from, size_t bytes)
{
    if (bytes == 1)
        *(bytes_16 *)to = *(const bytes_16 *)from;
    else if (bytes == 2)
        *(bytes_32 *)to = *(const bytes_32 *)from;
    else
        for (size_t k = 0; k < bytes / 4; k++)
            ((bytes_64 *)to)[k] = ((const bytes_64 *)from)[k];
}

/* Copies the last vector of n elements, and back. */
ALWAYS void take_last(void *to, const void *from, int64_t n, size_t bytes)
{
    copy_vector(to, (const unsigned char *)from + (size_t)(n - LANES) * bytes, bytes);
}

ALWAYS void put_last(void *to, const void *from, int64_t n, size_t bytes)
{
    copy_vector((unsigned char *)to + (size_t)(n - LANES) * bytes, from, bytes);
}
