/* Attention: products, rows that are computed from them, and products of these rows, one block of rows after the other.
 *
 * Three steps are joined: a contraction, a step over rows that reads its products (softmax), a contraction whose left operand
 * these rows are. A unit takes one block of rows through all three, in scratch memory: neither the products nor the rows
 * are ever in memory as a whole. Each step computes a block as it would alone, so results are the same bytes.
 */
#if !defined(KERNELS_ONLY)
/* State of the step. */
typedef struct {
    contraction *scores, *values;
    row_step *rows;
    int from, to;                           /* tensors of the products and of the rows */
    int64_t scores_at, rows_at, from_at, to_at, scratch; /* bytes into the scratch: of each step, and of a block of both tensors */
} attention;

enum { ATTENTION_BYTES = 5 << 17 /* of a block of products and rows: they stay in the second-level cache */ };

static void free_attention(void *state)
{
    attention *x = state;
    free(x->scores);
    free(x->values);
    free_rows(x->rows);
    free(x);
}

static void keep_state(void *state) { (void)state; }

/* Where a tensor would begin whose elements from `first` on lie at `block`. */
static void *shifted(unsigned char *block, int64_t first)
{
    return (void *)((uintptr_t)block - (uintptr_t)first * sizeof(float));
}

static const char *run_attention(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors)
{
    const attention *x = s->state;
    void *here[MAX_TENSORS];
    memcpy(here, tensors, (size_t)(p->inputs + p->outputs + p->temporaries) * sizeof *here);
    unsigned char *scratch = take_scratch(x->scratch);
    if (!scratch)
        return NO_MEMORY;
    contraction_state scores = {scratch + x->scores_at, -1, -1, -1}, values = {scratch, -1, -1, -1};
    const char *error = NULL;
    for (int64_t unit = begin; unit < end && !error; unit++) {
        int64_t matrix = unit / x->scores->row_blocks, block = unit % x->scores->row_blocks;
        int64_t first = (matrix * x->scores->rows + block * x->scores->block_rows) * x->scores->columns;
        here[x->from] = shifted(scratch + x->from_at, first);
        here[x->to] = shifted(scratch + x->to_at, first);
        error = run_block(x->scores, unit, &scores, here);
        if (!error)
            error = run_row_units(x->rows, unit, unit + 1, scratch + x->rows_at, here);
        if (!error)
            error = run_block(x->values, unit, &values, here);
    }
    give_scratch(scratch);
    return error;
}

/* Whether matrices lie in a tensor one after the other, row by row. */
static int lies_in_order(const matrix *m, int64_t batches, int64_t rows, int64_t columns)
{
    const extent *e[3] = {&m->batch, &m->row, &m->column};
    const int64_t size[3] = {batches, rows, columns}, step[3] = {rows * columns, columns, 1};
    for (int k = 0; k < 3; k++)
        if (size[k] > 1 && (e[k]->loops != 1 || e[k]->step[0] != step[k]))
            return 0;
    return m->base == 0;
}

/* Cuts a contraction into blocks of so many rows and all columns; 0 where that cannot be. */
static int cut_by_rows(contraction *x, int64_t rows)
{
    cut_blocks(x, rows);
    return x->column_blocks == 1 && x->block_rows == rows;
}

/* Makes the rows of one matrix the innermost loop over rows; 0 where other loops lie there, or where rows of `tensor` are not
 * read each at its place. */
static int rows_of_matrices(row_step *x, int tensor, int64_t rows)
{
    int64_t inside = 1;
    for (int i = 0; i < x->what->loads; i++) {
        const row_access *a = &x->load[i];
        if (x->what->tensors[i] != tensor)
            continue;
        if (!x->what->wide[i] || x->what->bytes[i] != sizeof(float) || a->packed_at >= 0 || a->base != 0
            || (a->row != x->columns && x->rows > 1))
            return 0;
        for (int k = 0; k < x->outers; k++)
            if (a->outer[k] != x->outer_step[k] * x->columns)
                return 0;
    }
    for (int k = x->outers - 1; k >= 0; k--) { /* units in the order of rows */
        if (x->outer_step[k] != x->rows * inside)
            return 0;
        inside *= x->outer_count[k];
    }
    if (x->rows % rows != 0 || x->outers == MAX_LOOPS)
        return 0;
    x->outer_count[x->outers] = x->rows / rows;
    x->outer_step[x->outers] = rows;
    for (int i = 0; i < x->what->loads; i++)
        x->load[i].outer[x->outers] = x->load[i].row * rows;
    x->outers++;
    x->rows = rows;
    return 1;
}

/* The tensor that a contraction, or its epilogue, writes; -1 where there are several, or others than floats. */
static int written_by(const contraction_code *c)
{
    if (!c->epilogue)
        return c->to;
    return c->stores->stores == 1 && c->stores->bytes[0] == sizeof(float) ? c->stores->tensors[0] : -1;
}

/* Cuts all three steps into the same blocks of rows; 0 where they do not go together. */
static int cut_alike(contraction *scores, row_step *rows, contraction *values, int from, int to)
{
    int64_t bytes = 2 * scores->rows * scores->columns * (int64_t)sizeof(float);
    int64_t blocks = (bytes + ATTENTION_BYTES - 1) / ATTENTION_BYTES, block = (scores->rows + blocks - 1) / blocks;
    int together = !scores->parts && !values->parts && scores->batches == values->batches && scores->rows == values->rows
                   && scores->columns == values->depth && rows->columns == scores->columns
                   && lies_in_order(&values->left, values->batches, values->rows, values->depth);
    return together && cut_by_rows(scores, block) && cut_by_rows(values, block) && rows_of_matrices(rows, from, scores->rows)
           && (cut_rows(rows, block), rows->blocks == scores->row_blocks) && rows->what->store_tensors[0] == to;
}
#endif

/* Joins the contraction into a tensor, the step that makes rows of another one of it, and the contraction of these; nothing else
 * reads either. The steps stay as they are where they do not go together. */
SHARED void join_attention(plan *p, int from, int to)
{
    step *found[3] = {NULL, NULL, NULL};
    for (int i = 0; i < p->steps; i++) {
        step *s = &p->step[i];
        if (s->run == run_contraction && written_by(((contraction *)s->state)->code) == from)
            found[0] = s;
        if (s->run == run_rows && ((row_step *)s->state)->what->stores == 1 && ((row_step *)s->state)->what->store_tensors[0] == to)
            found[1] = s;
        if (s->run == run_contraction && ((contraction *)s->state)->code->left == to)
            found[2] = s;
    }
    attention *x = found[0] && found[1] && found[2] ? malloc(sizeof *x) : NULL;
    if (!x)
        return;
    contraction scores = *(contraction *)found[0]->state, values = *(contraction *)found[2]->state;
    row_step rows = *(row_step *)found[1]->state;
    const row_kernel *what = rows.what;
    row_access *load = malloc((size_t)(what->loads + 1) * sizeof *load);
    if (load)
        memcpy(load, rows.load, (size_t)what->loads * sizeof *load);
    rows.load = load;
    if (!load || !what->store_wide[0] || what->store_bytes[0] != sizeof(float) || !cut_alike(&scores, &rows, &values, from, to)) {
        free(load);
        free(x);
        return;
    }
    free(((row_step *)found[1]->state)->load);
    *x = (attention){found[0]->state, found[2]->state, found[1]->state, from, to, 0, 0, 0, 0, 0};
    *x->scores = scores;
    *x->values = values;
    *x->rows = rows;
    int64_t *at[4] = {&x->scores_at, &x->rows_at, &x->from_at, &x->to_at}, block = scores.block_rows * scores.columns * (int64_t)sizeof(float);
    const int64_t bytes[4] = {values.scratch, scores.scratch, rows.scratch, block};
    for (int k = 0; k < 4; k++)
        x->scratch = *at[k] = (x->scratch + bytes[k] + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    x->scratch += block;
    found[2]->work += found[0]->work + found[1]->work;
    found[2]->units = scores.batches * scores.row_blocks;
    found[2]->run = run_attention;
    found[2]->release = free_attention;
    found[2]->state = x;
    for (int k = 0; k < 2; k++) {
        found[k]->units = 0;
        found[k]->release = keep_state;
    }
    p->temporary[from - p->inputs - p->outputs].bytes = p->temporary[to - p->inputs - p->outputs].bytes = 0;
}
