/* Recurrent layers: GRU and LSTM.
 *
 * The input's share of the gates is there: a product over all steps at once. Each step multiplies the hidden state before it by the
 * recurrent weights, packed once where they are constant, and computes the gates. Gates stand in the order of ONNX: update, reset,
 * candidate (GRU); input, output, forget, candidate (LSTM).
 */

enum { GRU_GATES = 3, LSTM_GATES = 4, MAX_DIRECTIONS = 2 };

/* What a generated kernel says of a layer; -1 for tensors that are absent. */
typedef struct {
    int gates, directions;
    unsigned char reversed[MAX_DIRECTIONS]; /* the last step comes first */
    int reset_after;                        /* GRU: the reset gate scales the product, not the state */
    int cells;                              /* LSTM: the last cell states stand behind the hidden states */
    int input[MAX_DIRECTIONS];              /* [steps, batch, gates * hidden] */
    int weights, bias, hidden, cell;        /* [directions, gates * hidden, hidden], [directions, 2 * gates * hidden], states */
    int to;                                 /* [steps (and one), directions, batch, hidden] */
} recurrence_code;

#if !defined(KERNELS_ONLY)
typedef struct {
    const recurrence_code *code;
    int64_t steps, batch, size;                   /* size: of the hidden state */
    const float *panels[MAX_DIRECTIONS][2]; /* constant weights, those behind the reset state apart; NULL for others */
    int64_t scratch;                              /* bytes */
} recurrence;

/* Columns of the weights that are multiplied at once, and those that wait for the reset state. */
static inline int64_t first_columns(const recurrence *x)
{
    return x->code->gates == GRU_GATES && !x->code->reset_after ? 2 * x->size : x->code->gates * x->size;
}

/* Transposed weights of one direction as the right operand of a contraction: columns [first, first + columns). */
static contraction recurrent_operand(const recurrence *x, const contraction_code *code, int direction, int64_t first, int64_t columns)
{
    contraction c;
    memset(&c, 0, sizeof c);
    c.code = code;
    c.depth = x->size;
    c.columns = columns;
    c.right.base = (direction * x->code->gates * x->size + first) * x->size;
    add_loop(&c.right.row, x->size, 1);
    add_loop(&c.right.column, columns, x->size);
    return c;
}

static const char *pack_recurrent(plan *p, recurrence *x)
{
    const float *data = constant_of(p, x->code->weights);
    contraction_code code = {.right = x->code->weights};
    int64_t most = x->code->gates * x->size, first = first_columns(x);
    for (int d = 0; d < x->code->directions && data; d++)
        for (int part = 0; part < 2; part++) {
            int64_t from = part ? first : 0, columns = part ? most - first : first;
            contraction c = recurrent_operand(x, &code, d, from, columns);
            if (columns && !pack_constant(p, &c, data, IN_PANELS))
                return NO_MEMORY;
            x->panels[d][part] = c.panels;
        }
    return NULL;
}

/* z and r from the input's share and the product, for one sample; the update gate replaces its product. */
static void reset_state(int64_t size, const float *input, float *product, const float *before, float *state)
{
    VECTORISED
    for (int64_t j = 0; j < size; j++) {
        product[j] = sigmoid_f32(input[j] + product[j]);
        state[j] = sigmoid_f32(input[size + j] + product[size + j]) * before[j];
    }
}

static void gru_from_reset_state(int64_t size, const float *input, const float *update, const float *product,
                                 const float *before, float *to)
{
    VECTORISED
    for (int64_t j = 0; j < size; j++) {
        float candidate = tanh_f32(input[2 * size + j] + product[j]);
        to[j] = (1.0f - update[j]) * candidate + update[j] * before[j];
    }
}

static void gru(int64_t size, const float *input, const float *product, const float *before, float *to)
{
    VECTORISED
    for (int64_t j = 0; j < size; j++) {
        float update = sigmoid_f32(input[j] + product[j]), reset = sigmoid_f32(input[size + j] + product[size + j]);
        float candidate = tanh_f32(input[2 * size + j] + reset * product[2 * size + j]);
        to[j] = (1.0f - update) * candidate + update * before[j];
    }
}

static void lstm(int64_t size, const float *input, const float *product, float *cell, float *to)
{
    VECTORISED
    for (int64_t j = 0; j < size; j++) {
        float in = sigmoid_f32(input[j] + product[j]), out = sigmoid_f32(input[size + j] + product[size + j]);
        float forget = sigmoid_f32(input[2 * size + j] + product[2 * size + j]);
        float candidate = tanh_f32(input[3 * size + j] + product[3 * size + j]);
        cell[j] = forget * cell[j] + in * candidate;
        to[j] = out * tanh_f32(cell[j]);
    }
}

enum { FAR_STEP_BYTES = 1 << 19 };

/* All steps of one direction. */
static void run_direction(const recurrence *x, int d, float *scratch, void *const *tensors)
{
    const recurrence_code *code = x->code;
    const int64_t size = x->size, width = code->gates * size, block = x->batch * size, first = first_columns(x);
    float *product = scratch, *cell = product + x->batch * width, *reset = cell + block, *zero = reset + block;
    float *packed[2] = {zero + block, zero + block + packed_floats(size, first)};
    const float *panels[2] = {x->panels[d][0], x->panels[d][1]};
    contraction_code operand = {.right = code->weights};
    for (int part = 0; part < 2; part++)
        if (!panels[part] && (part == 0 || first < width)) {
            contraction c = recurrent_operand(x, &operand, d, part ? first : 0, part ? width - first : first);
            pack_panels(packed[part], (const float *)tensors[code->weights] + c.right.base, &c.right.row, &c.right.column, size, 0, c.columns);
            panels[part] = packed[part];
        }
    int far = packed_floats(size, width) * (int64_t)sizeof(float) > FAR_STEP_BYTES; /* each step reads all of them again */
    const float *bias = code->bias < 0 ? NULL : (const float *)tensors[code->bias] + (2 * d + 1) * width;
    const float *before = code->hidden < 0 ? zero : (const float *)tensors[code->hidden] + d * block;
    memset(zero, 0, (size_t)block * sizeof(float));
    if (code->cell < 0)
        memset(cell, 0, (size_t)block * sizeof(float));
    else
        memcpy(cell, (const float *)tensors[code->cell] + d * block, (size_t)block * sizeof(float));
    for (int64_t n = 0; n < x->steps; n++) {
        int64_t t = code->reversed[d] ? x->steps - 1 - n : n;
        const float *input = (const float *)tensors[code->input[d]] + t * x->batch * width;
        float *to = (float *)tensors[code->to] + (t * code->directions + d) * block;
        multiply(x->batch, first, size, before, size, 1, panels[0], far, 1.0f, bias, product, width);
        if (first < width) {
            for (int64_t b = 0; b < x->batch; b++)
                reset_state(size, input + b * width, product + b * width, before + b * size, reset + b * size);
            multiply(x->batch, size, size, reset, size, 1, panels[1], far, 1.0f, bias ? bias + first : NULL, product + first, width);
        }
        for (int64_t b = 0; b < x->batch; b++) {
            const float *in = input + b * width, *sums = product + b * width, *state = before + b * size;
            if (code->gates == LSTM_GATES)
                lstm(size, in, sums, cell + b * size, to + b * size);
            else if (first < width)
                gru_from_reset_state(size, in, sums, sums + first, state, to + b * size);
            else
                gru(size, in, sums, state, to + b * size);
        }
        before = to;
    }
    if (code->cells)
        memcpy((float *)tensors[code->to] + (x->steps * code->directions + d) * block, cell, (size_t)block * sizeof(float));
}

static const char *run_recurrence(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors)
{
    const recurrence *x = s->state;
    (void)p;
    float *scratch = take_scratch(x->scratch);
    if (!scratch)
        return NO_MEMORY;
    for (int64_t d = begin; d < end; d++)
        run_direction(x, (int)d, scratch, tensors);
    give_scratch(scratch);
    return NULL;
}
#endif

/* The shape of the hidden states, and of the cell states behind them. Inputs and states: NULL where they are absent. */
SHARED const char *shape_recurrence(int gates, int cells, const shape *const input[2], const shape *weights, const shape *bias, const shape *hidden, const shape *cell, shape *result)
{
    static const char wrong[] = "the shapes of a recurrent layer contradict each other";
    if (weights->rank != 3 || input[0]->rank != 3)
        return wrong;
    int64_t size = weights->size[2], directions = weights->size[0], batch = input[0]->size[1];
    if (directions != 1 + (input[1] != NULL) || weights->size[1] != gates * size || input[0]->size[2] != gates * size
        || (input[1] && !same_shape(input[0], input[1])))
        return wrong;
    if (bias && (bias->rank != 2 || bias->size[0] != directions || bias->size[1] != 2 * gates * size))
        return wrong;
    const shape *states[2] = {hidden, cell};
    for (int i = 0; i < 2; i++)
        if (states[i] && (states[i]->rank != 3 || states[i]->size[0] != directions || states[i]->size[1] != batch
                          || states[i]->size[2] != size))
            return wrong;
    *result = (shape){.rank = 4, .size = {input[0]->size[0] + cells, directions, batch, size}};
    return NULL;
}

/* Plans a recurrent layer. input: the shape of a direction's share of the gates; size: of the hidden state. */
SHARED const char *plan_recurrence(plan *p, const recurrence_code *code, const shape *input, int64_t size)
{
    recurrence *x = calloc(1, sizeof *x);
    if (!x)
        return NO_MEMORY;
    x->code = code;
    x->steps = input->size[0];
    x->batch = input->size[1];
    x->size = size;
    if (x->batch * size == 0) {
        free(x);
        return NULL;
    }
    const char *error = pack_recurrent(p, x);
    if (error) {
        free(x);
        return error;
    }
    int64_t width = code->gates * size, floats = x->batch * (width + 3 * size), first = first_columns(x);
    if (!x->panels[0][0])
        floats += packed_floats(size, first) + packed_floats(size, width - first);
    x->scratch = floats * (int64_t)sizeof(float);
    return add_step(p, (step){run_recurrence, free, x, code->directions, x->steps * x->batch * width * (size / 16 + 8) * code->directions, 0});
}
