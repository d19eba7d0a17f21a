/* A convolution as a step of a plan. */

enum { INPUT, WEIGHTS, BIAS, ADDED, RESULT, CONVOLUTION_TENSORS };

typedef struct {
    const convolution *what;
    convolution_plan plan;
    winograd_plan winograd;          /* of no tasks where the sums are computed directly */
    unit_plan unit;                  /* of no tasks where the matrix unit is not used */
    int tensor[CONVOLUTION_TENSORS]; /* -1 where absent */
    int packed;                      /* a temporary for weights that are no constants; -1 for none */
    flat_epilogue epilogue;          /* a step that this one computes piece by piece */
    void *own;                       /* weights that are constants, in the order or parts they are read in; NULL where as given */
} convolution_state;

SHARED void free_convolution(void *state)
{
    convolution_state *x = state;
    free(x->own);
    free(x);
}

SHARED const char *run_convolution_units(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors)
{
    const convolution_state *x = s->state;
    (void)p;
    const float *weights = tensors[x->tensor[WEIGHTS]], *bias = NULL;
    if (x->tensor[BIAS] >= 0)
        bias = tensors[x->tensor[BIAS]];
    if (x->winograd.tasks || x->unit.tasks) {
        weights = x->own;
    } else if (x->own || x->packed >= 0) {
        weights = x->own ? x->own : tensors[x->packed];
        bias = weights + packed_convolution_floats(&x->plan) - packed_biases(&x->plan);
    }
    const convolution_call call = {&x->plan, tensors[x->tensor[INPUT]], weights, bias,
                                   x->tensor[ADDED] >= 0 ? tensors[x->tensor[ADDED]] : NULL, tensors[x->tensor[RESULT]],
                                   x->epilogue.nest ? &x->epilogue : NULL, tensors, tensors[x->tensor[WEIGHTS]]};
#if defined(CONVOLUTION_UNIT)
    if (x->unit.tasks) {
        unit_shapes before;
        int done = 1;
        take_matrix_unit(&before);
        for (int64_t task = begin; task < end && done; task++)
            done = run_unit(&call, &x->unit, task);
        give_matrix_unit(&before);
        return done ? NULL : NO_MEMORY;
    }
#endif
    for (int64_t task = begin; task < end; task++)
        if (!(x->winograd.tasks ? run_winograd(&call, &x->winograd, task) : run_convolution(&call, task)))
            return NO_MEMORY;
    return NULL;
}

SHARED const char *run_packing(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors)
{
    const convolution_state *x = s->state;
    (void)p, (void)begin, (void)end;
    pack_weights(x->what, &x->plan, tensors[x->tensor[WEIGHTS]], x->tensor[BIAS] >= 0 ? tensors[x->tensor[BIAS]] : NULL,
                 tensors[x->packed]);
    return NULL;
}

SHARED const char *shape_convolution(const convolution *c, const shape *input, const shape *weights, const shape *bias,
                                     const shape *sum, shape *result)
{
    convolution_plan plan;
    return plan_convolution(c, input, weights, bias, sum, &plan, result);
}

/* Brings constant weights into the order in which the unit or Winograd's filters read them, where one of these pays.
 * 0 where there is no memory for it. */
SHARED int transform_constant(convolution_state *x, const float *weights)
{
    const convolution_plan *plan = &x->plan;
    int tiled = plan_winograd(plan, &x->winograd);
#if defined(CONVOLUTION_UNIT)
    if (plan_unit(plan, &x->unit) && x->unit.work < x->winograd.work) {
        x->own = take_aligned(unit_weight_bytes(plan, &x->unit));
        if (!x->own)
            return 0;
        if (split_weights(plan, &x->unit, weights, x->own)) {
            x->winograd.tasks = 0;
            return 1;
        }
        free(x->own);
        x->own = NULL;
    }
    x->unit.tasks = 0;
#endif
    if (tiled) {
        x->own = take_aligned(winograd_floats(plan, &x->winograd) * (int64_t)sizeof(float));
        if (x->own)
            transform_weights(plan, &x->winograd, weights, x->own);
        return x->own != NULL;
    }
    return 1;
}

/* Plans the steps of a convolution: the tensors are numbered as in the enumeration above. */
SHARED const char *plan_convolution_step(plan *p, const convolution *c, const shape *input, const shape *weights,
                                         const shape *bias, const shape *sum, const int *tensor)
{
    shape result;
    convolution_state *x = calloc(1, sizeof *x);
    if (!x)
        return NO_MEMORY;
    x->what = c;
    memcpy(x->tensor, tensor, sizeof x->tensor);
    x->packed = -1;
    const char *error = plan_convolution(c, input, weights, bias, sum, &x->plan, &result);
    const convolution_plan *plan = &x->plan;
    const float *w = error ? NULL : constant_of(p, tensor[WEIGHTS]);
    if (w && c->blocked) {
        if (!transform_constant(x, w))
            error = NO_MEMORY;
    } else if (!error && !c->blocked) { /* blocked weights are in the order of the tiles already */
        const float *b = c->bias ? constant_of(p, tensor[BIAS]) : NULL;
        shape packed = {1, {packed_convolution_floats(plan)}};
        if (w && (b || !c->bias)) {
            x->own = take_aligned(packed.size[0] * (int64_t)sizeof(float));
            if (x->own)
                pack_weights(c, plan, w, b, x->own);
            else
                error = NO_MEMORY;
        } else {
            x->packed = p->inputs + p->outputs + p->temporaries;
            error = add_temporary(p, &packed, sizeof(float), p->stage, p->stage + 1);
            convolution_state *packing = error ? NULL : malloc(sizeof *packing);
            if (packing) {
                *packing = *x;
                error = add_step(p, (step){run_packing, free_convolution, packing, 1, packed.size[0], 0});
            } else if (!error) {
                error = NO_MEMORY;
            }
        }
    }
    if (error) {
        free_convolution(x);
        return error;
    }
    int64_t taps = plan->kernel_height * plan->kernel_width * (plan->depthwise ? 1 : plan->input_channels);
    p->stage++;
    int64_t tasks = x->unit.tasks ? x->unit.tasks : x->winograd.tasks ? x->winograd.tasks : plan->tasks;
    error = add_step(p, (step){run_convolution_units, free_convolution, x, tasks, elements(&result) * (1 + taps / 8), 0});
    p->stage--;
    return error;
}

/* Has the step that sums into a tensor compute the only step that reads it, where that can be done element by element. */
SHARED void fuse_epilogue(plan *p, int result)
{
    int *to = NULL;
    flat_epilogue *epilogue = NULL;
    for (int i = 0; i < p->steps; i++) {
        step *s = &p->step[i];
        if (s->run == run_convolution_units && ((convolution_state *)s->state)->tensor[RESULT] == result) {
            to = &((convolution_state *)s->state)->tensor[RESULT];
            epilogue = &((convolution_state *)s->state)->epilogue;
        } else if (s->run == run_channels && ((channel_state *)s->state)->sums == result) {
            to = &((channel_state *)s->state)->sums;
            epilogue = &((channel_state *)s->state)->epilogue;
        }
        nest *reader = s->run == run_tiles ? s->state : NULL;
        if (!to || !reader || !is_flat_epilogue(p, reader, result, &epilogue->product))
            continue;
        if (result >= p->inputs + p->outputs)
            *to = reader->to->tensors[0];
        epilogue->nest = reader;
        s->units = 0;
        return;
    }
}
