/* Epilogues that are one flat loop: nests that a step computes of each run of its results as soon as that is there. */

typedef struct {
    const nest *nest; /* NULL for none */
    int product;      /* its load that is the result */
} flat_epilogue;

/* Computes elements [begin, begin + count) of an epilogue, if there is one. */
SHARED void run_flat_epilogue(const flat_epilogue *e, void *const *tensors, const float *result, int64_t begin, int64_t count)
{
    if (!e->nest)
        return;
    const piece *only = e->nest->pieces;
    const alternative *what = only->what;
    const nest_outputs *to = e->nest->to;
    const void *loads[MAX_OPERANDS];
    void *stores[MAX_OPERANDS];
    for (int i = 0; i < what->loads; i++)
        loads[i] = i == e->product ? (const unsigned char *)(result + begin)
                                   : (const unsigned char *)tensors[what->tensors[i]]
                                         + (only->load[i].base + (what->once[i] ? 0 : begin)) * what->bytes[i];
    for (int i = 0; i < to->stores; i++)
        stores[i] = (unsigned char *)tensors[to->tensors[i]] + begin * to->bytes[i];
    what->compute(count, loads, stores);
}

/* Whether a nest computes each element of its stores from the same elements of tensors that are there before the kernel runs, and
 * of the result of a step: as one flat loop. */
SHARED int is_flat_epilogue(const plan *p, const nest *x, int result, int *product)
{
    if (x->count != 1 || !x->pieces->what->compute)
        return 0;
    const piece *only = x->pieces;
    const access *to = &only->store;
    if (only->outers != 0 || only->rows != 1 || to->base != 0 || (to->column != 1 && only->columns != 1))
        return 0;
    *product = -1;
    for (int i = 0; i < only->what->loads; i++) {
        const access *a = &only->load[i];
        int is_result = only->what->tensors[i] == result;
        if (only->what->index[i] >= 0 || (!is_result && only->what->tensors[i] >= p->inputs))
            return 0;
        if (only->what->once[i] && !is_result)
            continue;
        if (a->base != 0 || a->size != 0 || (a->column != 1 && only->columns != 1) || (is_result && *product >= 0))
            return 0;
        if (is_result)
            *product = i;
    }
    return *product >= 0;
}
