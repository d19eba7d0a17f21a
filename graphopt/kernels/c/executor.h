/* Nests: steps of element-wise and layout work, run tile by tile.
 *
 * A tile is a small rectangle of output elements. Operands that lie in memory just as the tile does are read in place;
 * all others (broadcast, strided, transposed) are packed into a buffer that stays in the first-level cache. So the
 * generated compute functions are flat loops over unit-stride arrays, whatever the shapes and index maps. Tiles are
 * independent: their order and the number of threads change no bit of the result.
 */
/* Elements of a tile: where operands are packed, they fit the first-level cache; where none is, tiles only share out
 * work. Columns of a packed tile where a load runs along the rows. */
enum { TILE = 2048, UNPACKED_TILE = 16384, TRANSPOSED_COLUMNS = 64, TRANSPOSED_ROWS = 32 };

/* Computes n elements: reads loads[], writes stores[], all unit-stride. */
typedef void (*compute_function)(int64_t n, const void *const *loads, void *const *stores);

/* Where a load stands: its flat index; for a lookup the index without the picked row, whose number is another load. */
typedef struct {
    affine at;
    int64_t stride, size; /* of a lookup: elements from one row to the next, and rows that there are */
} load_place;

/* Places the store and every load of one alternative, or says what stands against it. */
typedef verdict (*place_function)(domain *d, const void *frame, affine *store, load_place *load);

/* What a generated kernel says of one alternative of a nest: which elements it yields is decided by place. */
typedef struct {
    place_function place;
    compute_function compute; /* NULL: the single load is copied */
    int loads;
    const int *tensors;        /* tensor of each load */
    const int *bytes;          /* element size of each load */
    const unsigned char *once; /* loads that stand for one element each, read outside of the loop */
    const int *index;          /* for a lookup the load of its indices, -1 for others */
} alternative;

typedef struct {
    int64_t base, column, row; /* elements; steps of the tile's two loops */
    int64_t stride, size;      /* of a lookup */
    int64_t outer[MAX_LOOPS];
} access;

typedef struct {
    const alternative *what;
    int outers;
    int64_t outer_count[MAX_LOOPS];
    int64_t rows, columns, tile_rows, tile_columns, row_tiles, column_tiles;
    int rows_last;      /* outer loops run within the tiles of rows */
    int64_t first_tile; /* tiles in the pieces before this one */
    access store;
    access *load;
} piece;

typedef struct {
    int stores;
    const int *tensors; /* tensor of each store */
    const int *bytes;   /* element size of each store */
    int cost;           /* rough operations per element */
} nest_outputs;

/* State of a step that is a nest. */
typedef struct {
    const nest_outputs *to;
    piece *pieces;
    int64_t count, room, tiles;
} nest;

#if !defined(KERNELS_ONLY) /* what follows but plan_nest is called by the library alone */

/* ---------------------------------------------------------------- planning */

/* Merges loops that all tensors walk as one, and drops loops of one round; loops before `apart` stay apart from others. */
static int coalesce(domain *d, int apart, affine *store, load_place *load, int loads)
{
    int kept = 0, kept_apart = 0;
    for (int k = 0; k < d->loops; k++) {
        if (k == apart)
            kept_apart = kept;
        if (d->count[k] == 1)
            continue;
        int merge = kept > kept_apart && store->step[kept - 1] == store->step[k] * d->count[k]
                    && d->step[kept - 1] == d->step[k] * d->count[k];
        for (int i = 0; i < loads && merge; i++)
            merge = load[i].at.step[kept - 1] == load[i].at.step[k] * d->count[k];
        int to = merge ? kept - 1 : kept++;
        d->count[to] = merge ? d->count[to] * d->count[k] : d->count[k];
        d->step[to] = d->step[k];
        store->step[to] = store->step[k];
        for (int i = 0; i < loads; i++)
            load[i].at.step[to] = load[i].at.step[k];
    }
    if (apart >= d->loops)
        kept_apart = kept;
    d->loops = kept;
    return kept_apart;
}

/* Whether tiles need no buffer: elements are only moved, or all operands lie in memory as one row. */
static int reads_in_place(const domain *d, const affine *store, const load_place *load, const alternative *what)
{
    for (int i = 0; i < what->loads; i++)
        if (what->index[i] >= 0)
            return 0;
    if (!what->compute)
        return 1;
    int flat = d->loops == 0 || (d->loops == 1 && store->step[0] == 1);
    for (int i = 0; i < what->loads && flat; i++)
        flat = what->once[i] || d->loops == 0 || load[i].at.step[0] == 1;
    return flat;
}

static const char *run_tiles(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors);

static void free_nest(void *state)
{
    nest *x = state;
    for (int64_t i = 0; i < x->count; i++)
        free(x->pieces[i].load);
    free(x->pieces);
    free(x);
}

static const char *add_piece(plan *p, nest *to, const alternative *what, domain *d, affine *store, load_place *load)
{
    if (p->pieces == MAX_PIECES)
        return TOO_MANY_PIECES;
    if (to->count == to->room) {
        int64_t room = to->room ? to->room * 2 : 4;
        piece *grown = realloc(to->pieces, (size_t)room * sizeof *grown);
        if (!grown)
            return NO_MEMORY;
        to->pieces = grown;
        to->room = room;
    }
    coalesce(d, 0, store, load, what->loads);
    piece *x = &to->pieces[to->count];
    memset(x, 0, sizeof *x);
    x->load = calloc((size_t)what->loads + 1, sizeof *x->load);
    if (!x->load)
        return NO_MEMORY;
    to->count++;
    x->what = what;
    int column = d->loops - 1, row = d->loops - 2, transposed = 0;
    for (int i = 0; i < what->loads && column >= 0 && !transposed; i++) {
        int64_t inner = load[i].at.step[column];
        if (inner == 0 || inner == 1)
            continue;
        for (int k = column - 1; k >= 0 && !transposed; k--)
            if (load[i].at.step[k] == 1) {
                row = k;
                transposed = 1;
            }
    }
    x->columns = column >= 0 ? d->count[column] : 1;
    x->rows = row >= 0 ? d->count[row] : 1;
    int64_t tile = reads_in_place(d, store, load, what) ? UNPACKED_TILE : TILE;
    if (transposed && x->columns > TRANSPOSED_COLUMNS) {
        x->tile_rows = x->rows < TRANSPOSED_ROWS ? x->rows : TRANSPOSED_ROWS;
        x->tile_columns = clamp(what->compute ? TRANSPOSED_COLUMNS : tile / x->tile_rows, 1, x->columns);
    } else {
        x->tile_columns = x->columns < tile ? x->columns : tile;
        x->tile_rows = x->tile_columns < x->columns ? 1 : clamp(tile / x->tile_columns, 1, x->rows);
    }
    /* rows that are only moved, and follow each other along an outer loop in memory: read as they lie there */
    for (int k = 0; k < row && !what->compute && what->loads == 1 && !transposed; k++)
        x->rows_last |= load[0].at.step[column] == 1 && load[0].at.step[k] == x->columns;
    if (x->rows_last)
        x->tile_rows = clamp(TILE / x->tile_columns, 1, x->rows);
    x->row_tiles = (x->rows + x->tile_rows - 1) / x->tile_rows;
    x->column_tiles = (x->columns + x->tile_columns - 1) / x->tile_columns;
    int64_t tiles = x->row_tiles * x->column_tiles;
    for (int i = -1; i < what->loads; i++) {
        access *a = i < 0 ? &x->store : &x->load[i];
        const affine *place = i < 0 ? store : &load[i].at;
        const int64_t *step = place->step;
        a->base = place->base;
        a->stride = i < 0 ? 0 : load[i].stride;
        a->size = i < 0 ? 0 : load[i].size;
        a->column = column >= 0 ? step[column] : 0;
        a->row = row >= 0 ? step[row] : 0;
        int outer = 0;
        for (int k = 0; k < d->loops; k++)
            if (k != column && k != row) {
                a->outer[outer] = step[k];
                x->outer_count[outer++] = d->count[k];
            }
        x->outers = outer;
    }
    for (int k = 0; k < x->outers; k++)
        tiles *= x->outer_count[k];
    x->first_tile = to->tiles;
    to->tiles += tiles;
    if (p->stream_tensors) {
        step once = {run_tiles, free_nest, to, to->tiles, 0, 0};
        const char *error = run_tiles(p, &once, 0, to->tiles, p->stream_tensors);
        free(x->load);
        to->count = 0;
        to->tiles = 0;
        return error;
    }
    p->pieces++;
    return NULL;
}
#endif

/* Plans one nest: every element of outputs of shape s, by the alternatives, which share them out among themselves. */
SHARED const char *plan_nest(plan *p, const nest_outputs *outputs, const shape *s, const alternative *alternatives,
                             int count, const void *frame)
{
    int64_t total = elements(s);
    nest *planned = calloc(1, sizeof *planned);
    if (!planned)
        return NO_MEMORY;
    planned->to = outputs;
    int64_t room = 64, depth = 0;
    domain *stack = malloc((size_t)room * sizeof *stack);
    affine store;
    load_place *load = NULL;
    const char *error = stack ? NULL : NO_MEMORY;
    for (int a = 0; a < count && total > 0 && !error; a++) {
        const alternative *what = &alternatives[a];
        load_place *grown = realloc(load, (size_t)(what->loads ? what->loads : 1) * sizeof *load);
        if (!grown) {
            error = NO_MEMORY;
            break;
        }
        load = grown;
        memset(&stack[0], 0, sizeof stack[0]);
        stack[0].loops = 1;
        stack[0].count[0] = total;
        stack[0].step[0] = 1;
        depth = 1;
        while (depth > 0 && !error) {
            domain *d = &stack[depth - 1];
            verdict v = what->place(d, frame, &store, load);
            int k = d->at_loop;
            if (v == DONE) {
                error = add_piece(p, planned, what, d, &store, load);
                depth--;
            } else if (v == OUTSIDE) {
                depth--;
            } else if (v == INVALID) {
                error = OUT_OF_RANGE;
            } else if (v == REFINE) {
                refine(d);
            } else { /* CUT: the front part goes on top */
                if (depth == room) {
                    domain *more = realloc(stack, (size_t)room * 2 * sizeof *stack);
                    if (!more) {
                        error = NO_MEMORY;
                        break;
                    }
                    stack = more;
                    room *= 2;
                    d = &stack[depth - 1];
                }
                stack[depth] = *d;
                stack[depth].count[k] = d->at;
                d->base += d->step[k] * d->at;
                d->count[k] -= d->at;
                depth++;
            }
        }
    }
    free(load);
    free(stack);
    if (error) {
        free_nest(planned);
        return error;
    }
    return add_step(p, (step){run_tiles, free_nest, planned, planned->tiles, total * outputs->cost, 0});
}

#if !defined(KERNELS_ONLY)
static void free_plan(plan *p)
{
    if (!p)
        return;
    free_steps(p);
    for (int i = 0; i < p->inputs && p->value; i++)
        free(p->value[i]);
    free(p->value);
    free(p->input_shape);
    free(p->output_shape);
    free(p->identity);
    free(p);
}

/* Finds the inputs that an output may overwrite: all loads read the very element that the piece stores. */
static void find_identities(plan *p)
{
    int only_nest = p->steps == 1 && !p->streams && p->step[0].run == run_tiles;
    for (int i = 0; i < p->inputs; i++)
        p->identity[i] = (unsigned char)only_nest;
    const nest *x = only_nest ? p->step[0].state : NULL;
    for (int64_t n = 0; x && n < x->count; n++) {
        const alternative *what = x->pieces[n].what;
        for (int l = 0; l < what->loads; l++) {
            const access *a = &x->pieces[n].load[l], *b = &x->pieces[n].store;
            if (what->tensors[l] < p->inputs
                && (a->base != b->base || a->column != b->column || a->row != b->row || a->size != 0
                    || memcmp(a->outer, b->outer, sizeof a->outer) != 0))
                p->identity[what->tensors[l]] = 0;
        }
    }
}

/* ---------------------------------------------------------------- running */

enum { MAX_OPERANDS = 32 }; /* loads and stores of a nest */

static int is_flat(const access *a, int64_t rows, int64_t columns)
{
    return (a->column == 1 || columns == 1) && (rows == 1 || a->row == columns);
}

/* The row that an index picks; -1 where there is none. */
static inline int64_t picked_row(const void *indices, int bytes, int64_t at, int64_t size)
{
    int64_t row = bytes == 4 ? ((const int32_t *)indices)[at] : ((const int64_t *)indices)[at];
    row = row < 0 ? row + size : row;
    return row >= 0 && row < size ? row : -1;
}

/* Lookups whose elements are found, and fetched, before the first of them is copied: tables lie far from the processor. */
enum { FOUND = 64, FETCHED_BYTES = 256, CACHE_LINE = 64 };

static inline __attribute__((always_inline)) void copy_bytes(unsigned char *to, const unsigned char *from, int64_t bytes)
{
    for (; bytes >= 64; bytes -= 64, to += 64, from += 64)
        memcpy(to, from, 64);
    for (; bytes >= 8; bytes -= 8, to += 8, from += 8)
        memcpy(to, from, 8);
    for (; bytes > 0; bytes--)
        *to++ = *from++;
}

/* Finds slices of so many bytes that indices of one type pick, and fetches them; 0 where an index is out of range. index_step: in
 * indices; step: bytes from what one index picks from to what the next does; stride: bytes from one slice to the next. */
#define DEFINE_FIND_PICKED(type)                                                                                       \
    static int find_picked_##type(const void **rows, int64_t count, const type *index, int64_t index_step,             \
                                  const unsigned char *data, int64_t step, int64_t stride, int64_t size, int64_t bytes) \
    {                                                                                                                  \
        for (int64_t r = 0; r < count; r++) {                                                                          \
            int64_t picked = index[r * index_step];                                                                    \
            picked += picked < 0 ? size : 0;                                                                           \
            if ((uint64_t)picked >= (uint64_t)size)                                                                    \
                return 0;                                                                                              \
            const unsigned char *row = data + r * step + picked * stride;                                              \
            rows[r] = row;                                                                                             \
            for (int64_t line = 0; line < bytes; line += CACHE_LINE)                                                   \
                __builtin_prefetch(row + line);                                                                        \
        }                                                                                                              \
        return 1;                                                                                                      \
    }
DEFINE_FIND_PICKED(int32_t)
DEFINE_FIND_PICKED(int64_t)

/* Packs slices of so many bytes, to_step bytes apart, that indices index_step elements apart pick; the rest as for find_picked. */
static const char *pack_slices(unsigned char *to, int64_t to_step, const unsigned char *from, int64_t step, int64_t stride,
                               int64_t size, const void *indices, int index_bytes, int64_t index_step, int64_t count, int64_t bytes)
{
    const void *source[FOUND];
    int64_t fetched = bytes < FETCHED_BYTES ? bytes : FETCHED_BYTES;
    for (int64_t first = 0; first < count; first += FOUND, to += FOUND * to_step, from += FOUND * step) {
        int64_t found = count - first < FOUND ? count - first : FOUND, at = first * index_step;
        int inside = index_bytes == 4 ? find_picked_int32_t(source, found, (const int32_t *)indices + at, index_step, from,
                                                            step, stride, size, fetched)
                                      : find_picked_int64_t(source, found, (const int64_t *)indices + at, index_step, from,
                                                            step, stride, size, fetched);
        if (!inside)
            return OUT_OF_RANGE;
        if (bytes == 4) {
            for (int64_t i = 0; i < found; i++)
                memcpy(to + i * to_step, source[i], 4);
        } else if (bytes == 64) {
            for (int64_t i = 0; i < found; i++)
                memcpy(to + i * to_step, source[i], 64);
        } else {
            for (int64_t i = 0; i < found; i++)
                copy_bytes(to + i * to_step, source[i], bytes);
        }
    }
    return NULL;
}

/* Packs a tile of a lookup. a: of the data, b: of the indices, whose first element stands at `first`. */
static const char *pack_lookup(int bytes, unsigned char *to, int64_t to_row, const unsigned char *from, const access *a,
                               const void *indices, int index_bytes, int64_t first, const access *b, int64_t rows,
                               int64_t columns)
{
    int64_t run = b->column == 0 ? columns : 1; /* elements for which an index stands */
    int64_t whole = (a->column == 1 || run == 1) ? run * bytes : 0, fetched = whole < FETCHED_BYTES ? whole : FETCHED_BYTES;
    const unsigned char *first_index = (const unsigned char *)indices + first * index_bytes;
    if (whole && run == columns)
        return pack_slices(to, to_row * bytes, from, a->row * bytes, a->stride * bytes, a->size, first_index, index_bytes, b->row,
                           rows, whole);
    if (whole && rows == 1)
        return pack_slices(to, bytes, from, a->column * bytes, a->stride * bytes, a->size, first_index, index_bytes, b->column,
                           columns, whole);
    const unsigned char *source[FOUND];
    unsigned char *target[FOUND];
    for (int64_t r = 0, c = 0; r < rows && columns > 0;) {
        int found = 0;
        for (; found < FOUND && r < rows; found++) {
            int64_t row = picked_row(indices, index_bytes, first + r * b->row + c * b->column, a->size);
            if (row < 0)
                return OUT_OF_RANGE;
            source[found] = from + (row * a->stride + r * a->row + c * a->column) * bytes;
            target[found] = to + (r * to_row + c) * bytes;
            for (int64_t line = 0; line < fetched; line += 64)
                __builtin_prefetch(source[found] + line);
            __builtin_prefetch(source[found] + (fetched > 0 ? fetched - 1 : 0));
            c += run;
            if (c >= columns) {
                c = 0;
                r++;
            }
        }
        for (int i = 0; i < found; i++) {
            if (whole)
                copy_bytes(target[i], source[i], whole);
            else
                pack(bytes, target[i], 0, 1, source[i], 0, a->column, 1, run);
        }
    }
    return NULL;
}

/* Runs tiles [begin, end) of a nest. */
static const char *run_tiles(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors)
{
    const nest *planned = s->state;
    const nest_outputs *to = planned->to;
    unsigned char(*buffer)[TILE * 8] = (unsigned char(*)[TILE * 8])thread_memory;
    (void)p;
    int64_t low = 0, high = planned->count - 1;
    while (low < high) { /* the piece that holds tile `begin` */
        int64_t middle = (low + high + 1) / 2;
        if (planned->pieces[middle].first_tile <= begin)
            low = middle;
        else
            high = middle - 1;
    }
    for (int64_t tile = begin; tile < end; low++) {
        const piece *x = &planned->pieces[low];
        const alternative *what = x->what;
        int64_t last = low + 1 < planned->count ? planned->pieces[low + 1].first_tile : planned->tiles;
        if (last > end)
            last = end;
        const unsigned char *packed[MAX_OPERANDS] = {0};
        int64_t packed_rows = 0, packed_columns = 0;
        for (; tile < last; tile++) {
            int64_t t = tile - x->first_tile;
            int64_t c0 = t % x->column_tiles * x->tile_columns;
            t /= x->column_tiles;
            int64_t r0 = 0;
            if (!x->rows_last) {
                r0 = t % x->row_tiles * x->tile_rows;
                t /= x->row_tiles;
            }
            int64_t counter[MAX_LOOPS];
            for (int k = x->outers - 1; k >= 0; k--) {
                counter[k] = t % x->outer_count[k];
                t /= x->outer_count[k];
            }
            if (x->rows_last)
                r0 = t * x->tile_rows;
            int64_t columns = x->columns - c0 < x->tile_columns ? x->columns - c0 : x->tile_columns;
            int64_t rows = x->rows - r0 < x->tile_rows ? x->rows - r0 : x->tile_rows;
            if (rows != packed_rows || columns != packed_columns)
                memset(packed, 0, sizeof packed);
            packed_rows = rows;
            packed_columns = columns;
            int64_t at = x->store.base + r0 * x->store.row + c0 * x->store.column;
            for (int k = 0; k < x->outers; k++)
                at += counter[k] * x->store.outer[k];
            int flat = is_flat(&x->store, rows, columns);
            int64_t from[MAX_OPERANDS];
            const void *loads[MAX_OPERANDS];
            for (int i = 0; i < what->loads; i++) {
                const access *a = &x->load[i];
                from[i] = a->base + r0 * a->row + c0 * a->column;
                for (int k = 0; k < x->outers; k++)
                    from[i] += counter[k] * a->outer[k];
            }
            for (int i = 0; i < what->loads; i++) {
                const access *a = &x->load[i];
                int bytes = what->bytes[i];
                const unsigned char *source = (const unsigned char *)tensors[what->tensors[i]] + from[i] * bytes;
                if (what->index[i] >= 0) {
                    int j = what->index[i];
                    int direct = !what->compute && (x->store.column == 1 || columns == 1);
                    unsigned char *target = direct ? (unsigned char *)tensors[to->tensors[0]] + at * bytes : buffer[i];
                    const char *error =
                        pack_lookup(bytes, target, direct ? x->store.row : columns, source, a, tensors[what->tensors[j]],
                                    what->bytes[j], from[j], &x->load[j], rows, columns);
                    if (error)
                        return error;
                    if (!what->compute && !direct)
                        pack(bytes, (unsigned char *)tensors[to->tensors[0]] + at * bytes, x->store.row, x->store.column,
                             target, columns, 1, rows, columns);
                    loads[i] = target;
                } else if (!what->compute) {
                    if (what->loads == 1)
                        pack(bytes, (unsigned char *)tensors[to->tensors[0]] + at * bytes, x->store.row, x->store.column,
                             source, a->row, a->column, rows, columns);
                } else if (what->once[i] || is_flat(a, rows, columns)) {
                    loads[i] = source;
                } else {
                    if (packed[i] != source)
                        pack(bytes, buffer[i], columns, 1, source, a->row, a->column, rows, columns);
                    packed[i] = source;
                    loads[i] = buffer[i];
                }
            }
            if (!what->compute)
                continue;
            void *stores[MAX_OPERANDS];
            for (int i = 0; i < to->stores; i++)
                stores[i] = flat ? (void *)((unsigned char *)tensors[to->tensors[i]] + at * to->bytes[i])
                                 : (void *)buffer[what->loads + i];
            what->compute(rows * columns, loads, stores);
            for (int i = 0; i < to->stores && !flat; i++)
                pack(to->bytes[i], (unsigned char *)tensors[to->tensors[i]] + at * to->bytes[i], x->store.row,
                     x->store.column, stores[i], columns, 1, rows, columns);
        }
    }
    return NULL;
}
#endif
