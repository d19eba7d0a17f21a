/* Contractions: where operands lie, blocks of products and what is done to them; the sums are made in products.h, or by the
 * matrix unit. */
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

/* The step within the innermost loop. */
static inline int64_t inner_step(const extent *e) { return e->loops ? e->step[e->loops - 1] : 0; }

/* How many indices from i on are that step apart. */
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
        group[k] = k < batch ? 0 : k == batch ? 1 : 2;
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
    for (int64_t first = 0; first < columns; first += PANEL) {
        int64_t count = columns - first < PANEL ? columns - first : PANEL;
        if (count < PANEL)
            memset(to, 0, (size_t)(depth * PANEL) * sizeof(float));
        for (int64_t k = 0, height; k < depth; k += height) {
            height = even_run(row, k, depth - k);
            for (int64_t j = 0, width; j < count; j += width) {
                int64_t at = column + first + j;
                width = even_run(columns_extent, at, count - j);
                pack(sizeof(float), to + k * PANEL + j, PANEL, 1, from + offset_of(row, k) + offset_of(columns_extent, at),
                     inner_step(row), inner_step(columns_extent), height, width);
            }
        }
        to += depth * PANEL;
    }
}

/* ---------------------------------------------------------------- what becomes of a block of products */

/* Element-wise work on each block of products while it is in the cache. */
typedef struct {
    const alternative *what; /* NULL for none: then products are stored as they are */
    const nest_outputs *to;
    int product;           /* load that is the products */
    int64_t rows, columns; /* of each matrix */
    matrix load[MAX_OPERANDS];
} block_epilogue;

/* Finds where the other operands lie, over a box of loops of the result; does_not_fit where that is not as nested loops. */
static const char *place_epilogue(plan *p, block_epilogue *e, const void *frame, domain d, int batch)
{
    load_place load[MAX_OPERANDS];
    if (!e->what)
        return NULL;
    if (!place_matrices(e->what->place, frame, d, batch, load, e->what->loads, e->load))
        return does_not_fit(p);
    for (int i = 0; i < e->what->loads; i++)
        if (e->load[i].column.loops > 1)
            return does_not_fit(p);
    return NULL;
}

/* Makes the batch part of the rows. */
static void fold_epilogue(block_epilogue *e, int64_t batches)
{
    for (int i = 0; e->what && i < e->what->loads; i++)
        fold_batch(&e->load[i]);
    e->rows *= batches;
}

/* Bytes that it packs operands and results into. */
static inline int64_t epilogue_buffer(const block_epilogue *e) { return (int64_t)(e->what->loads + e->to->stores) * TILE * 8; }

enum { SHORT_ROW = 128, LONG_ROW = 32 };

/* The epilogue over a block, row by row, where all operands lie along the columns in memory; 0 where one does not. */
static int run_epilogue_by_rows(const block_epilogue *e, int64_t batch, int64_t row, int64_t rows, int64_t column, int64_t columns,
                                const void *products, void *const *tensors)
{
    const alternative *what = e->what;
    const nest_outputs *to = e->to;
    const void *loads[MAX_OPERANDS];
    void *stores[MAX_OPERANDS];
    int64_t load_row[MAX_OPERANDS], at = (batch * e->rows + row) * e->columns + column;
    for (int i = 0; i < what->loads; i++) {
        const matrix *m = &e->load[i];
        int64_t column_step = 1, row_step = columns;
        loads[i] = products;
        if (i != e->product) {
            if (!even_step(&m->row, &row_step))
                return 0;
            even_step(&m->column, &column_step);
            if (column_step != 1 && columns > 1 && !what->once[i])
                return 0;
            loads[i] = (const unsigned char *)tensors[what->tensors[i]]
                       + (m->base + offset_of(&m->batch, batch) + row * row_step + column * column_step) * what->bytes[i];
        }
        load_row[i] = row_step * what->bytes[i];
    }
    for (int i = 0; i < to->stores; i++)
        stores[i] = (unsigned char *)tensors[to->tensors[i]] + at * to->bytes[i];
    int flat = columns == e->columns; /* rows follow each other wherever they lie */
    for (int i = 0; i < what->loads && flat; i++)
        flat = what->once[i] || load_row[i] == columns * what->bytes[i];
    if (flat) {
        what->compute(rows * columns, loads, stores);
        return 1;
    }
    for (int64_t r = 0; r < rows; r++) {
        what->compute(columns, loads, stores);
        for (int i = 0; i < what->loads; i++)
            loads[i] = (const unsigned char *)loads[i] + load_row[i];
        for (int i = 0; i < to->stores; i++)
            stores[i] = (unsigned char *)stores[i] + e->columns * to->bytes[i];
    }
    return 1;
}

/* The same a tile at a time. buffer: room for a tile of each operand and result. */
static void run_epilogue_by_tiles(const block_epilogue *e, int64_t batch, int64_t row, int64_t rows, int64_t column, int64_t columns,
                                  const void *products, unsigned char *buffer, void *const *tensors)
{
    const alternative *what = e->what;
    const nest_outputs *to = e->to;
    const unsigned char *packed[MAX_OPERANDS] = {0};
    int64_t packed_rows = 0, width = columns < TILE ? columns : TILE;
    int64_t height = columns < SHORT_ROW ? TILE / width : 1; /* a row at a time, most operands can be read in place */
    for (int64_t c = 0; c < columns; c += width) {
        int64_t tile_columns = columns - c < width ? columns - c : width;
        memset(packed, 0, sizeof packed);
        for (int64_t r = 0, tile_rows; r < rows; r += tile_rows) {
            tile_rows = rows - r < height ? rows - r : height;
            for (int i = 0; i < what->loads; i++)
                if (i != e->product)
                    tile_rows = even_run(&e->load[i].row, row + r, tile_rows);
            if (tile_rows != packed_rows)
                memset(packed, 0, sizeof packed);
            packed_rows = tile_rows;
            const void *loads[MAX_OPERANDS];
            void *stores[MAX_OPERANDS];
            for (int i = 0; i < what->loads; i++) {
                const matrix *m = &e->load[i];
                int64_t row_step = columns, column_step = 1, from = r * columns + c;
                const unsigned char *source = (const unsigned char *)products + from * what->bytes[i];
                if (i != e->product) {
                    even_step(&m->column, &column_step);
                    row_step = inner_step(&m->row);
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
            int64_t at = (batch * e->rows + row + r) * e->columns + column + c;
            int flat = tile_columns == e->columns || tile_rows == 1;
            for (int i = 0; i < to->stores; i++)
                stores[i] = flat ? (unsigned char *)tensors[to->tensors[i]] + at * to->bytes[i]
                                 : buffer + (int64_t)(what->loads + i) * TILE * 8;
            what->compute(tile_rows * tile_columns, loads, stores);
            for (int i = 0; i < to->stores && !flat; i++)
                pack(to->bytes[i], (unsigned char *)tensors[to->tensors[i]] + at * to->bytes[i], e->columns, 1, stores[i],
                     tile_columns, 1, tile_rows, tile_columns);
        }
    }
}

/* The epilogue over a block of products, whose rows follow each other. */
static void run_epilogue(const block_epilogue *e, int64_t batch, int64_t row, int64_t rows, int64_t column, int64_t columns,
                         const void *products, unsigned char *buffer, void *const *tensors)
{
    if (columns < LONG_ROW || !run_epilogue_by_rows(e, batch, row, rows, column, columns, products, tensors))
        run_epilogue_by_tiles(e, batch, row, rows, column, columns, products, buffer, tensors);
}

/* ---------------------------------------------------------------- a contraction as a step */

/* How an operand is packed: in panels, split into parts, column by column; or not at all, as its columns lie in memory; or as
 * sums of integers want it (integers.h). */
enum { IN_PANELS, IN_PARTS, IN_COLUMNS, AS_COLUMNS, AS_INTEGER_ROWS, AS_INTEGER_COLUMNS };

/* A packed constant operand: what is kept for all plans of a node. columns: of a left operand, its rows. */
typedef struct {
    kept as;
    int tensor, packing;
    int64_t depth, columns;
    matrix from;
} packed_operand;

/* State of a step that is a contraction. */
typedef struct {
    const contraction_code *code;
    int64_t batches, rows, columns, depth;
    int64_t block_rows, row_blocks, block_columns, column_blocks;
    matrix left, right, bias;
    block_epilogue epilogue;
    int packing;
    const float *panels;                    /* or columns of a constant right operand; NULL for others */
    const unsigned char *parts;             /* of one that the matrix unit multiplies; NULL for others */
    int64_t run;                            /* with parts, the depth of which rows are split at a time */
    int split;                              /* tensor of the rows in parts, made by a step before; -1 where this one makes them */
    /* bytes into the scratch: the right operand in panels or the parts of rows of the left one, a copy of these rows (-1
     * where they are read in place), the products for an epilogue, what it packs */
    int64_t left_at, products_at, packed_at, scratch;
} contraction;

enum { BLOCK_ROWS = 5 * MOST_ROWS, PACKED_BLOCK_ROWS = 256, BLOCK_FLOATS = 1 << 17, LEAST_UNITS = 2, LEAST_SUMS = 1 << 20,
       LEAST_UNIT_SUMS = 1 << 21 /* the matrix unit takes a while to begin */, FAR_BYTES = 1 << 20, PRODUCT_BYTES = 1 << 18,
       FETCHED_ROWS = 8 /* fewer do not outlast the loads of a panel, fetched ahead or not */ };

/* The operand that this plan or one before it packed like that; NULL where none did. */
static void *packed_before(const plan *p, const packed_operand *wanted)
{
    for (kept *k = __atomic_load_n(p->made, __ATOMIC_ACQUIRE); k; k = k->next) {
        const packed_operand *o = (const packed_operand *)k;
        if (o->tensor == wanted->tensor && o->packing == wanted->packing && o->depth == wanted->depth && o->columns == wanted->columns
            && memcmp(&o->from, &wanted->from, sizeof o->from) == 0) /* both were zeroed before they were filled */
            return k->memory;
    }
    return NULL;
}

/* Keeps an operand that was packed into shared memory (NULL where it could not be); NULL where that fails, too. */
static void *keep_packed(plan *p, const packed_operand *what, void *shared)
{
    packed_operand *o = shared ? malloc(sizeof *o) : NULL;
    if (!o) {
        unshare(shared);
        return NULL;
    }
    memcpy(o, what, sizeof *o);
    o->as.memory = shared;
    o->as.next = __atomic_load_n(p->made, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p->made, &o->as.next, &o->as, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
    return shared;
}

#if defined(MATRIX_UNIT)
/* Splits the right operand by way of `panel`; 0 where an element is too large for it. */
static int split_right(unsigned char *to, const float *data, const contraction *x, float *panel)
{
    for (int64_t column = 0; column < x->columns; column += PANEL) {
        int64_t columns = x->columns - column < PANEL ? x->columns - column : PANEL;
        pack_panels(panel, data + x->right.base, &x->right.row, &x->right.column, x->depth, column, columns);
        if (!split_panel(to + split_bytes(x->depth, column), panel, x->depth, columns))
            return 0;
    }
    return 1;
}
#endif

/* Packs columns of the right operand one after the other. */
static void pack_columns(float *to, const float *from, const contraction *x)
{
    for (int64_t j = 0; j < x->columns; j++)
        for (int64_t k = 0; k < x->depth; k++)
            to[j * x->depth + k] = from[offset_of(&x->right.row, k) + offset_of(&x->right.column, j)];
}

/* The constant right operand, packed; NULL where there is no memory for it, or where it cannot be split. */
static void *packed_right(const contraction *x, const float *data, int packing)
{
    int64_t bytes = packed_floats(x->depth, x->columns) * (int64_t)sizeof(float);
    if (packing == IN_COLUMNS)
        bytes = x->columns * x->depth * (int64_t)sizeof(float);
#if defined(MATRIX_UNIT)
    if (packing == IN_PARTS)
        bytes = split_bytes(x->depth, x->columns);
#endif
    void *to = take_aligned(bytes);
    if (to && packing == IN_COLUMNS)
        pack_columns(to, data + x->right.base, x);
    else if (to && packing == IN_PANELS)
        pack_panels(to, data + x->right.base, &x->right.row, &x->right.column, x->depth, 0, x->columns);
#if defined(MATRIX_UNIT)
    if (to && packing == IN_PARTS) {
        float *panel = take_aligned(packed_floats(x->depth, PANEL) * (int64_t)sizeof(float));
        int done = panel && split_right(to, data, x, panel);
        free(panel);
        if (!done) {
            free(to);
            return NULL;
        }
    }
#endif
    return to ? share(to, bytes) : NULL;
}

/* The right operand packed if it is constant, by this plan or one before it; 0 where that cannot be. */
static int pack_constant(plan *p, contraction *x, const float *data, int packing)
{
    packed_operand wanted;
    memset(&wanted, 0, sizeof wanted);
    wanted.tensor = x->code->right;
    wanted.packing = packing;
    wanted.depth = x->depth;
    wanted.columns = x->columns;
    memcpy(&wanted.from, &x->right, sizeof wanted.from);
    void *memory = packed_before(p, &wanted);
    if (!memory && !(memory = keep_packed(p, &wanted, packed_right(x, data, packing))))
        return 0;
    x->packing = packing;
    x->panels = packing == IN_PARTS ? NULL : memory;
    x->parts = packing == IN_PARTS ? memory : NULL;
    return 1;
}

static const char *pack_right(plan *p, contraction *x)
{
    const float *data = constant_of(p, x->code->right);
    int64_t even, step = 1, right_step = 1;
    int few = x->columns <= FEW_COLUMNS && even_step(&x->left.row, &even) && even_step(&x->left.column, &step)
              && (step == 1 || x->depth == 1);
    if (few && even_step(&x->right.row, &right_step) && even_step(&x->right.column, &even) && (right_step == 1 || x->depth == 1)) {
        x->packing = AS_COLUMNS; /* where it lies */
        return NULL;
    }
    if (!data || !is_fixed(&x->right.batch))
        return NULL;
    if (few)
        return pack_constant(p, x, data, IN_COLUMNS) ? NULL : NO_MEMORY;
    int packed = (matrix_unit_pays(x->rows, x->columns, x->depth) && pack_constant(p, x, data, IN_PARTS))
                 || pack_constant(p, x, data, IN_PANELS);
    return packed ? NULL : NO_MEMORY;
}

/* Copies rows [row, row + rows) of the left operand next to each other. */
static void copy_rows(const extent *row_extent, const extent *depth_extent, const float *from, int64_t row, int64_t rows,
                      int64_t depth, float *to)
{
    for (int64_t done = 0; done < rows;) {
        int64_t run = even_run(row_extent, row + done, rows - done);
        const float *first = from + offset_of(row_extent, row + done);
        for (int64_t k = 0; k < depth;) {
            int64_t part = even_run(depth_extent, k, depth - k);
            pack(sizeof(float), to + done * depth + k, depth, 1, first + offset_of(depth_extent, k), inner_step(row_extent),
                 inner_step(depth_extent), run, part);
            k += part;
        }
        done += run;
    }
}

/* What units of a step on one thread share. */
typedef struct {
    unsigned char *scratch;
    int64_t packed_batch, packed_column; /* what is in the panels */
    int64_t split_row;                   /* the block of rows whose parts are there */
} contraction_state;

/* A block of the right operand in panels: those of a constant one, or made of one that is computed. */
static const float *panels_of(const contraction *x, int64_t batch, int64_t column, int64_t columns, contraction_state *state, void *const *tensors)
{
    if (x->panels)
        return x->panels + column * x->depth;
    float *panels = (float *)state->scratch;
    if (batch != state->packed_batch || column != state->packed_column) {
        const float *from = (const float *)tensors[x->code->right] + x->right.base + offset_of(&x->right.batch, batch);
        pack_panels(panels, from, &x->right.row, &x->right.column, x->depth, column, columns);
        state->packed_batch = batch;
        state->packed_column = column;
    }
    return panels;
}

#if defined(MATRIX_UNIT)
/* State of a step that splits a left operand for all contractions that read it. Behind the parts stands a flag for each two
 * tiles of rows: whether they could not be split. */
typedef struct {
    int from, to; /* tensors */
    matrix left;
    int64_t rows, depth;
} splitting;

enum { MOST_SPLIT_BYTES = 3 << 19 };

static inline int64_t left_bytes(int64_t rows, int64_t depth)
{
    return tiles_of(rows, UNIT_ROWS) * tiles_of(depth, UNIT_DEPTH) * PARTS_BYTES;
}

static const char *run_splitting(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors)
{
    const splitting *x = s->state;
    unsigned char *parts = tensors[x->to], *failed = parts + left_bytes(x->rows, x->depth);
    (void)p;
    int64_t left_row, step = 1;
    int in_place = even_step(&x->left.row, &left_row) && even_step(&x->left.column, &step) && step == 1;
    float *copy = in_place ? NULL : take_scratch(2 * UNIT_ROWS * x->depth * (int64_t)sizeof(float));
    if (!in_place && !copy)
        return NO_MEMORY;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t row = unit * 2 * UNIT_ROWS, rows = x->rows - row < 2 * UNIT_ROWS ? x->rows - row : 2 * UNIT_ROWS;
        const float *from = (const float *)tensors[x->from] + x->left.base;
        if (in_place)
            from += row * left_row;
        else
            copy_rows(&x->left.row, &x->left.column, from, row, rows, x->depth, copy);
        failed[unit] = (unsigned char)!split_rows(parts + left_bytes(row, x->depth), in_place ? from : copy,
                                                  in_place ? left_row : x->depth, rows, x->depth);
    }
    if (copy)
        give_scratch(copy);
    return NULL;
}

/* Has the left operand split by a step of its own: each element once, whoever reads it, in this stage; the contraction runs
 * in the next. Without such a step where the parts would leave the caches. */
static const char *split_apart(plan *p, contraction *x)
{
    int64_t units = tiles_of(x->rows, 2 * UNIT_ROWS), bytes = left_bytes(x->rows, x->depth) + units;
    if (!x->parts || p->stream_tensors || bytes > MOST_SPLIT_BYTES)
        return NULL;
    splitting *made = NULL;
    for (int i = 0; i < p->steps; i++) {
        splitting *s = p->step[i].run == run_splitting ? p->step[i].state : NULL;
        if (s && s->from == x->code->left && s->rows == x->rows && s->depth == x->depth
            && memcmp(&s->left, &x->left, sizeof s->left) == 0)
            made = s;
    }
    if (!made) {
        shape room = {1, {bytes}};
        if (p->temporaries == MAX_TEMPORARIES)
            return NULL;
        made = calloc(1, sizeof *made);
        if (!made)
            return NO_MEMORY;
        *made = (splitting){x->code->left, p->inputs + p->outputs + p->temporaries, x->left, x->rows, x->depth};
        const char *error = add_temporary(p, &room, 1, p->stage, p->stage);
        if (!error)
            error = add_step(p, (step){run_splitting, free, made, units, x->rows * x->depth, 0});
        else
            free(made);
        if (error)
            return error;
    }
    p->temporary[made->to - p->inputs - p->outputs].last = p->stage + 1;
    x->split = made->to;
    return NULL;
}

/* Whether a step before could not split some rows; its parts of them. */
static int split_before(const contraction *x, int64_t row, int64_t rows, void *const *tensors, const unsigned char **parts)
{
    const unsigned char *all = tensors[x->split], *failed = all + left_bytes(x->rows, x->depth);
    *parts = all + left_bytes(row, x->depth);
    return !memchr(failed + row / (2 * UNIT_ROWS), 1, (size_t)tiles_of(rows, 2 * UNIT_ROWS));
}

/* A block of products of rows that a step before split. */
static void multiply_split(const contraction *x, const unsigned char *split, int64_t rows, int64_t column, int64_t columns,
                           int far, const float *bias, float *to, int64_t to_row)
{
    int64_t blocks = tiles_of(x->depth, UNIT_DEPTH);
    sum_result f = {x->code->scale, 0, bias};
    multiply_run(rows, columns, blocks, split, blocks * PARTS_BYTES, x->parts + split_bytes(x->depth, column), blocks, far, &f, to,
                 to_row);
}

/* A block of products by the matrix unit; 0 where an element of the left operand is too large for it. */
static int multiply_parts(const contraction *x, int64_t row, int64_t rows, int64_t column, int64_t columns, const float *left,
                          int64_t left_row, contraction_state *state, int far, const float *bias, float *to, int64_t to_row)
{
    int64_t blocks = tiles_of(x->depth, UNIT_DEPTH);
    const unsigned char *right = x->parts + split_bytes(x->depth, column);
    for (int64_t k = 0; k < x->depth; k += x->run) {
        int64_t run = x->depth - k < x->run ? x->depth - k : x->run;
        if (state->split_row != row || run < x->depth) {
            state->split_row = -1;
            if (!split_rows(state->scratch, left + k, left_row, rows, run))
                return 0;
            state->split_row = row;
        }
        sum_result f = {x->code->scale, k > 0, k > 0 ? NULL : bias};
        multiply_run(rows, columns, tiles_of(run, UNIT_DEPTH), state->scratch, tiles_of(run, UNIT_DEPTH) * PARTS_BYTES,
                     right + k / UNIT_DEPTH * PARTS_BYTES, blocks, far, &f, to, to_row);
    }
    return 1;
}

/* The same where the matrix unit cannot, and the right operand is in parts. */
static const char *multiply_large(const contraction *x, int64_t rows, int64_t column, int64_t columns, const float *left,
                                  int64_t left_row, const float *bias, float *to, int64_t to_row, void *const *tensors)
{
    float *panels = take_aligned(packed_floats(x->depth, columns) * (int64_t)sizeof(float));
    if (!panels)
        return NO_MEMORY;
    pack_panels(panels, (const float *)tensors[x->code->right] + x->right.base, &x->right.row, &x->right.column, x->depth,
                column, columns);
    multiply(rows, columns, x->depth, left, left_row, 1, panels, 0, x->code->scale, bias, to, to_row);
    free(panels);
    return NULL;
}
#endif

/* One unit: a block of rows and columns of one matrix. */
static const char *run_block(const contraction *x, int64_t unit, contraction_state *state, void *const *tensors)
{
    int64_t block = unit / x->row_blocks, batch = block / x->column_blocks;
    int64_t column = block % x->column_blocks * x->block_columns, row = unit % x->row_blocks * x->block_rows;
    if (x->parts) { /* of one matrix: rows are split once for all columns */
        batch = 0;
        column = unit % x->column_blocks * x->block_columns;
        row = unit / x->column_blocks * x->block_rows;
    }
    int64_t columns = x->columns - column < x->block_columns ? x->columns - column : x->block_columns;
    int64_t rows = x->rows - row < x->block_rows ? x->rows - row : x->block_rows;
    const float *left = (const float *)tensors[x->code->left] + x->left.base + offset_of(&x->left.batch, batch);
    int64_t left_row = 0, left_step = 0;
    even_step(&x->left.row, &left_row);
    even_step(&x->left.column, &left_step);
    int is_split = 0; /* by a step before: then the left operand itself is not read */
#if defined(MATRIX_UNIT)
    const unsigned char *split = NULL;
    is_split = x->split >= 0 && split_before(x, row, rows, tensors, &split);
#endif
    if (x->left_at < 0) {
        left += row * left_row;
    } else if (!is_split && (!x->parts || state->split_row != row || x->run < x->depth)) {
        float *copy = (float *)(state->scratch + x->left_at);
        copy_rows(&x->left.row, &x->left.column, left, row, rows, x->depth, copy);
        left = copy;
        left_row = x->depth;
        left_step = 1;
    }
    const float *bias = x->code->bias < 0 ? NULL : (const float *)tensors[x->code->bias] + x->bias.base + column;
    float *to = x->epilogue.what ? (float *)(state->scratch + x->products_at)
                                 : (float *)tensors[x->code->to] + (batch * x->rows + row) * x->columns + column;
    int64_t to_row = x->epilogue.what ? columns : x->columns;
    int far = rows >= FETCHED_ROWS && __atomic_load_n(&shared_bytes, __ATOMIC_RELAXED) > FAR_BYTES;
    if (x->packing == IN_COLUMNS || x->packing == AS_COLUMNS) {
        int64_t right_column = x->depth;
        const float *right = x->panels;
        if (x->packing == AS_COLUMNS) {
            right = (const float *)tensors[x->code->right] + x->right.base + offset_of(&x->right.batch, batch);
            even_step(&x->right.column, &right_column);
        }
        multiply_few_columns(rows, columns, x->depth, left, left_row, right + column * right_column, right_column,
                             x->code->scale, bias, to, to_row);
    } else if (!x->parts) {
        const float *panels = panels_of(x, batch, column, columns, state, tensors);
        multiply(rows, columns, x->depth, left, left_row, left_step, panels, far && x->panels, x->code->scale, bias, to, to_row);
    }
#if defined(MATRIX_UNIT)
    if (is_split) {
        multiply_split(x, split, rows, column, columns, far, bias, to, to_row);
    } else if (x->parts
               && (x->split >= 0
                   || !multiply_parts(x, row, rows, column, columns, left, left_row, state, far, bias, to, to_row))) {
        const char *error = multiply_large(x, rows, column, columns, left, left_row, bias, to, to_row, tensors);
        if (error)
            return error;
    }
#endif
    if (x->epilogue.what)
        run_epilogue(&x->epilogue, batch, row, rows, column, columns, to, state->scratch + x->packed_at, tensors);
    return NULL;
}

static const char *run_contraction(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors)
{
    const contraction *x = s->state;
    const char *error = NULL;
    (void)p;
    contraction_state state = {take_scratch(x->scratch), -1, -1, -1};
    if (!state.scratch)
        return NO_MEMORY;
#if defined(MATRIX_UNIT)
    unit_shapes before;
    if (x->parts)
        take_matrix_unit(&before);
#endif
    for (int64_t unit = begin; unit < end && !error; unit++)
        error = run_block(x, unit, &state, tensors);
#if defined(MATRIX_UNIT)
    if (x->parts)
        give_matrix_unit(&before);
#endif
    give_scratch(state.scratch);
    return error;
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
    const char *error = place_epilogue(p, &x->epilogue, frame, matrix_domain(result, result->size, batch), batch);
    if (!error && is_fixed(&x->right.batch)) { /* one right operand for all: the rows of all are rows of one product */
        x->right.batch.loops = 0;
        fold_batch(&x->left);
        fold_epilogue(&x->epilogue, x->batches);
        x->rows *= x->batches;
        x->batches = 1;
    }
    return error;
}

/* Cuts the product into blocks of at most so many rows, the units of the step. */
static void cut_blocks(contraction *x, int64_t most_rows)
{
    int64_t whole = (x->columns + PANEL - 1) / PANEL * PANEL;
    x->row_blocks = (x->rows + most_rows - 1) / most_rows;
    x->block_rows = (x->rows + x->row_blocks - 1) / x->row_blocks;
    int64_t widest = clamp(BLOCK_FLOATS / (x->depth + 1), PANEL, whole);
    if (x->parts) {
        x->block_rows = tiles_of(x->block_rows, 2 * UNIT_ROWS) * 2 * UNIT_ROWS;
        x->row_blocks = tiles_of(x->rows, x->block_rows);
        widest = x->epilogue.what ? clamp(PRODUCT_BYTES / (int64_t)sizeof(float) / x->block_rows, PANEL, whole) : whole;
        x->run = split_run(x->block_rows, x->depth);
    }
    x->column_blocks = (whole + widest - 1) / widest;
    int64_t least = x->parts ? LEAST_UNIT_SUMS : LEAST_SUMS;
    if (x->batches * x->row_blocks * x->column_blocks < LEAST_UNITS && x->block_rows * x->columns * x->depth > least)
        x->column_blocks = LEAST_UNITS;
    x->block_columns = ((whole + x->column_blocks - 1) / x->column_blocks + PANEL - 1) / PANEL * PANEL;
    x->column_blocks = (x->columns + x->block_columns - 1) / x->block_columns;
    int64_t even, step = 1, bytes = x->panels ? 0 : packed_floats(x->depth, x->block_columns) * (int64_t)sizeof(float);
    if (x->parts)
        bytes = tiles_of(x->block_rows, UNIT_ROWS) * x->run / UNIT_DEPTH * PARTS_BYTES;
    int in_place = even_step(&x->left.row, &even) && even_step(&x->left.column, &step) && (!x->parts || step == 1);
    x->left_at = in_place ? -1 : bytes;
    bytes += in_place ? 0 : x->block_rows * x->depth * (int64_t)sizeof(float);
    x->products_at = bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (x->epilogue.what) {
        bytes += x->block_rows * x->block_columns * (int64_t)sizeof(float);
        x->packed_at = bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        bytes += epilogue_buffer(&x->epilogue);
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
    x->split = -1;
    x->batches = 1;
    for (int d = 0; d < result->rank - 2; d++)
        x->batches *= result->size[d];
    x->rows = result->size[result->rank - 2];
    x->columns = result->size[result->rank - 1];
    x->depth = left->size[left->rank - 1];
    x->epilogue = (block_epilogue){.what = code->epilogue, .to = code->stores, .product = code->product, .rows = x->rows, .columns = x->columns};
    if (x->batches * x->rows * x->columns == 0) {
        free(x);
        return NULL;
    }
    const char *error = place_contraction(p, x, result, left, right, frame);
    if (!error)
        error = pack_right(p, x);
    if (error) {
        free(x);
        return error;
    }
    cut_blocks(x, x->parts ? SPLIT_ROWS : x->panels ? BLOCK_ROWS : PACKED_BLOCK_ROWS);
#if defined(MATRIX_UNIT)
    error = split_apart(p, x);
    if (error) {
        free(x);
        return error;
    }
#endif
    int64_t units = x->batches * x->column_blocks * x->row_blocks;
    int64_t cost = x->depth / 16 + (code->epilogue ? code->stores->cost : 1);
    p->stage += x->split >= 0;
    error = add_step(p, (step){run_contraction, free, x, units, x->batches * x->rows * x->columns * cost, 0});
    p->stage -= x->split >= 0;
    return error;
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
