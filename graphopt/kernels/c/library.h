/* The library: a table of generated kernels as onnxruntime custom operators in domain graphopt.fused. */

extern const kernel *const KERNELS[];
extern const int KERNEL_COUNT;

enum { SEQUENTIAL_WORK = 1 << 16, CHUNK_WORK = 1 << 15, KEPT_PLANS = 32 };

typedef struct {
    OrtCustomOp op; /* first, so that onnxruntime's pointer is ours */
    const kernel *what;
} custom_operator;

/* One node of a session. Plans are only ever added, so a run may read the list while another adds to it. */
typedef struct {
    const OrtApi *api;
    const kernel *what;
    plan *plans;
    int kept;
    const OrtValue *constant[MAX_INPUTS];
    const void *constant_data[MAX_INPUTS];
    shape constant_shape[MAX_INPUTS];
    kept *made;
} fused_node;

static int has_shape_reference;

/* Memory for temporaries that no run uses: kernels that run one after the other take the same, and find it in the caches. */
typedef struct spare_memory {
    struct spare_memory *next;
    int64_t bytes; /* behind the first ALIGNMENT */
} spare_memory;

static spare_memory *all_spare; /* what was given back last comes first */
static int nodes;               /* that may take it */
static pthread_mutex_t spare_lock = PTHREAD_MUTEX_INITIALIZER;

/* Memory with room for `bytes` behind its first ALIGNMENT: spare one, or new one in the place of some that is too small. */
static spare_memory *take_memory(int64_t bytes)
{
    pthread_mutex_lock(&spare_lock);
    spare_memory **at = &all_spare;
    while (*at && (*at)->bytes < bytes)
        at = &(*at)->next;
    if (!*at)
        at = &all_spare;
    spare_memory *found = *at;
    if (found)
        *at = found->next;
    pthread_mutex_unlock(&spare_lock);
    if (found && found->bytes >= bytes)
        return found;
    free(found);
    found = take_aligned(ALIGNMENT + bytes);
    if (found)
        found->bytes = bytes;
    return found;
}

static void give_memory(spare_memory *memory)
{
    pthread_mutex_lock(&spare_lock);
    memory->next = all_spare;
    all_spare = memory;
    pthread_mutex_unlock(&spare_lock);
}

/* One node more or less. Behind the last one, no memory is spare. */
static void count_nodes(int more)
{
    pthread_mutex_lock(&spare_lock);
    nodes += more;
    while (nodes == 0 && all_spare) {
        spare_memory *next = all_spare->next;
        free(all_spare);
        all_spare = next;
    }
    pthread_mutex_unlock(&spare_lock);
}

#define RETURN_ON_ERROR(call)                                                                                          \
    do {                                                                                                               \
        OrtStatus *status_ = (call);                                                                                   \
        if (status_)                                                                                                   \
            return status_;                                                                                            \
    } while (0)

static OrtStatus *read_shape(const OrtApi *api, const OrtValue *value, shape *s)
{
    size_t rank = 0;
    OrtStatus *status = go_tensor_shape(api, has_shape_reference, value, s->size, MAX_RANK, &rank);
    s->rank = (int)rank;
    return status;
}

static int64_t structural_at(int bytes, const void *data, int64_t i)
{
    return bytes == 4 ? (int64_t)((const int32_t *)data)[i] : ((const int64_t *)data)[i];
}

static int plan_fits(const plan *p, const kernel *k, const shape *in, const void *const *data)
{
    for (int i = 0; i < k->inputs; i++) {
        if (p->constant && p->constant[i])
            continue;
        if (!same_shape(&p->input_shape[i], &in[i]))
            return 0;
        if (k->structural[i])
            for (int64_t e = 0, n = elements(&in[i]); e < n; e++)
                if (p->value[i][e] != structural_at(k->structural[i], data[i], e))
                    return 0;
    }
    return 1;
}

/* constant, made: as in the plan; NULL where nothing is constant. */
static plan *new_plan(const kernel *k, const shape *in, const void *const *data, const void *const *constant,
                      kept **made)
{
    plan *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->constant = constant;
    p->made = made;
    p->inputs = k->inputs;
    p->outputs = k->outputs;
    p->input_shape = malloc(sizeof(shape) * (size_t)(k->inputs + 1));
    p->output_shape = calloc((size_t)k->outputs + 1, sizeof(shape));
    p->identity = calloc((size_t)k->inputs + 1, 1);
    p->value = calloc((size_t)k->inputs + 1, sizeof *p->value);
    if (!p->input_shape || !p->output_shape || !p->identity || !p->value) {
        free_plan(p);
        return NULL;
    }
    for (int i = 0; i < k->inputs; i++) {
        p->input_shape[i] = in[i];
        if (!k->structural[i])
            continue;
        int64_t n = elements(&in[i]);
        p->value[i] = malloc(sizeof(int64_t) * (size_t)(n + 1));
        if (!p->value[i]) {
            free_plan(p);
            return NULL;
        }
        for (int64_t e = 0; e < n; e++)
            p->value[i][e] = structural_at(k->structural[i], data[i], e);
    }
    p->error = k->make_plan(p, in, (const int64_t *const *)p->value);
    if (p->error == TOO_MANY_PIECES) {
        p->error = NULL;
        p->streams = 1;
        free_steps(p);
    }
    place_temporaries(p);
    find_identities(p);
    return p;
}

/* Runs a plan whose pieces are too many to keep: plans again, and runs each piece at once. */
static const char *run_stream(const kernel *k, const plan *p, void **tensors)
{
    plan stream;
    shape output_shape[MAX_OUTPUTS];
    memset(&stream, 0, sizeof stream);
    stream.constant = p->constant;
    stream.made = p->made;
    stream.inputs = p->inputs;
    stream.outputs = p->outputs;
    stream.output_shape = output_shape;
    stream.stream_tensors = tensors;
    const char *error = k->make_plan(&stream, p->input_shape, (const int64_t *const *)p->value);
    free_steps(&stream);
    return error;
}

/* Steps of one stage while they run. */
typedef struct {
    const plan *p;
    int first, last;
    void *const *tensors;
    int64_t units, chunk;
    const char *error;
} job;

static const char *run_units(const job *j, int64_t begin, int64_t end)
{
    const char *error = NULL;
    for (int i = j->first; i < j->last && begin < end && !error; i++) {
        const step *s = &j->p->step[i];
        if (begin < s->units) {
            error = s->run(j->p, s, begin, end < s->units ? end : s->units, j->tensors);
            begin = s->units;
        }
        begin -= s->units;
        end -= s->units;
    }
    return error;
}

static void run_chunk(void *data, size_t index)
{
    job *j = data;
    int64_t begin = (int64_t)index * j->chunk, end = begin + j->chunk;
    const char *error = run_units(j, begin, end < j->units ? end : j->units);
    if (error)
        __atomic_store_n(&j->error, error, __ATOMIC_RELAXED);
}

/* Runs a plan stage by stage. tensors: with data of inputs and outputs, and room for temporaries. */
static OrtStatus *run_plan(const OrtApi *api, OrtKernelContext *context, plan *p, void **tensors)
{
    OrtStatus *status = NULL;
    spare_memory *memory = NULL;
    if (p->temporary_bytes > 0) {
        memory = take_memory(p->temporary_bytes);
        if (!memory)
            return go_status(api, GO_ORT_RUNTIME_EXCEPTION, NO_MEMORY);
    }
    for (int i = 0; i < p->temporaries; i++)
        tensors[p->inputs + p->outputs + i] = (unsigned char *)memory + ALIGNMENT + p->temporary[i].at;
    for (int first = 0, last; first < p->steps && !status; first = last) {
        job j = {p, first, first, tensors, 0, 0, NULL};
        int64_t work = 0;
        for (last = first; last < p->steps && p->step[last].stage == p->step[first].stage; last++) {
            j.units += p->step[last].units;
            work += p->step[last].work;
        }
        j.last = last;
        if (work < SEQUENTIAL_WORK || j.units <= 1) {
            j.error = run_units(&j, 0, j.units);
        } else {
            j.chunk = (int64_t)((double)j.units * CHUNK_WORK / (double)work) + 1;
            status = go_parallel_for(api, context, run_chunk, (size_t)((j.units + j.chunk - 1) / j.chunk), 0, &j);
        }
        if (!status && j.error)
            status = go_status(api, GO_ORT_INVALID_ARGUMENT, j.error);
    }
    if (memory)
        give_memory(memory);
    return status;
}

static size_t element_bytes(int type)
{
    switch (type) {
    case GO_DTYPE_DOUBLE:
    case GO_DTYPE_INT64:
    case GO_DTYPE_UINT64:
        return 8;
    case GO_DTYPE_FLOAT:
    case GO_DTYPE_INT32:
    case GO_DTYPE_UINT32:
        return 4;
    case GO_DTYPE_FLOAT16:
    case GO_DTYPE_BFLOAT16:
    case GO_DTYPE_INT16:
    case GO_DTYPE_UINT16:
        return 2;
    default:
        return 1;
    }
}

static OrtStatus *compute_node(void *state, OrtKernelContext *context)
{
    fused_node *node = state;
    const OrtApi *api = node->api;
    const kernel *k = node->what;
    shape in[MAX_INPUTS];
    const void *data[MAX_INPUTS];
    void *tensors[MAX_TENSORS];
    for (int i = 0; i < k->inputs; i++) {
        const OrtValue *value = node->constant[i];
        data[i] = node->constant_data[i];
        if (!value) {
            RETURN_ON_ERROR(go_input(api, context, (size_t)i, &value));
            RETURN_ON_ERROR(go_tensor_const_data(api, value, &data[i]));
            RETURN_ON_ERROR(read_shape(api, value, &in[i]));
        } else {
            in[i] = node->constant_shape[i];
        }
        tensors[i] = (void *)(uintptr_t)data[i]; /* steps write to outputs and temporaries only */
    }
    plan *p = __atomic_load_n(&node->plans, __ATOMIC_ACQUIRE), *own = NULL;
    while (p && !plan_fits(p, k, in, data))
        p = p->next;
    if (!p) {
        p = new_plan(k, in, data, node->constant_data, &node->made);
        if (!p)
            return go_status(api, GO_ORT_RUNTIME_EXCEPTION, "out of memory");
        if (__atomic_fetch_add(&node->kept, 1, __ATOMIC_RELAXED) < KEPT_PLANS) {
            p->next = __atomic_load_n(&node->plans, __ATOMIC_RELAXED);
            while (!__atomic_compare_exchange_n(&node->plans, &p->next, p, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
                ;
        } else {
            own = p;
        }
    }
    OrtStatus *status = NULL;
    if (p->error)
        status = go_status(api, GO_ORT_INVALID_ARGUMENT, p->error);
    for (int o = 0; o < k->outputs && !status; o++) {
        OrtValue *value = NULL;
        status = go_output(api, context, (size_t)o, p->output_shape[o].size, (size_t)p->output_shape[o].rank, &value);
        if (!status)
            status = go_tensor_data(api, value, &tensors[k->inputs + o]);
    }
    /* an output in the storage of an input that is not read element by element: read from a copy */
    void *copies[MAX_OUTPUTS];
    int copied = 0;
    for (int o = 0; o < k->outputs && !status; o++) {
        int i = k->overwrites[o];
        if (i < 0 || tensors[k->inputs + o] != data[i] || p->identity[i] || copied == MAX_OUTPUTS)
            continue;
        size_t bytes = (size_t)elements(&in[i]) * element_bytes(k->input_types[i]);
        void *copy = malloc(bytes ? bytes : 1);
        if (!copy) {
            status = go_status(api, GO_ORT_RUNTIME_EXCEPTION, "out of memory");
            break;
        }
        memcpy(copy, data[i], bytes);
        tensors[i] = copies[copied++] = copy;
    }
    if (!status && p->streams) {
        const char *error = run_stream(k, p, tensors);
        status = error ? go_status(api, GO_ORT_INVALID_ARGUMENT, error) : NULL;
    } else if (!status) {
        status = run_plan(api, context, p, tensors);
    }
    for (int i = 0; i < copied; i++)
        free(copies[i]);
    free_plan(own);
    return status;
}

static OrtStatus *create_node(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **state)
{
    fused_node *node = calloc(1, sizeof *node);
    if (!node)
        return go_status(api, GO_ORT_RUNTIME_EXCEPTION, "out of memory");
    node->api = api;
    node->what = ((const custom_operator *)op)->what;
    for (int i = 0; i < node->what->inputs; i++) {
        int constant = 0;
        const OrtValue *value = NULL;
        OrtStatus *status = go_info_constant_input(api, info, (size_t)i, &constant, &value);
        if (!status && constant)
            status = go_tensor_const_data(api, value, &node->constant_data[i]);
        if (!status && constant)
            status = read_shape(api, value, &node->constant_shape[i]);
        if (status) {
            free(node);
            return status;
        }
        node->constant[i] = constant ? value : NULL;
    }
    count_nodes(1);
    *state = node;
    return NULL;
}

static void destroy_node(void *state)
{
    fused_node *node = state;
    for (plan *p = node->plans, *next; p; p = next) {
        next = p->next;
        free_plan(p);
    }
    for (kept *x = node->made, *next; x; x = next) {
        next = x->next;
        unshare(x->memory);
        free(x);
    }
    free(node);
    count_nodes(-1);
}

static const kernel *kernel_of(const OrtCustomOp *op) { return ((const custom_operator *)op)->what; }
static const char *operator_name(const OrtCustomOp *op) { return kernel_of(op)->name; }
static const char *operator_provider(const OrtCustomOp *op) { return (void)op, "CPUExecutionProvider"; }
static size_t operator_inputs(const OrtCustomOp *op) { return (size_t)kernel_of(op)->inputs; }
static size_t operator_outputs(const OrtCustomOp *op) { return (size_t)kernel_of(op)->outputs; }
static int operator_version(const OrtCustomOp *op) { return (void)op, 1; }
static int operator_arity(const OrtCustomOp *op) { return (void)op, 0; }

static ONNXTensorElementDataType operator_input_type(const OrtCustomOp *op, size_t i)
{
    return (ONNXTensorElementDataType)kernel_of(op)->input_types[i];
}

static ONNXTensorElementDataType operator_output_type(const OrtCustomOp *op, size_t i)
{
    return (ONNXTensorElementDataType)kernel_of(op)->output_types[i];
}

static OrtCustomOpInputOutputCharacteristic operator_operand(const OrtCustomOp *op, size_t i)
{
    return (void)op, (void)i, GO_ARG_REQUIRED;
}

static OrtMemType operator_memory(const OrtCustomOp *op, size_t i) { return (void)op, (void)i, GO_MEM_DEFAULT; }

/* onnxruntime does not say which operator it asks for, so each pair (input, 0) has a function of its own. */
#define DEFINE_OVERWRITE(number)                                                                                       \
    static size_t overwrite_##number(int **inputs, int **outputs)                                                      \
    {                                                                                                                  \
        static int input = number, output = 0;                                                                         \
        *inputs = &input;                                                                                              \
        *outputs = &output;                                                                                            \
        return 1;                                                                                                      \
    }
DEFINE_OVERWRITE(0)
DEFINE_OVERWRITE(1)
DEFINE_OVERWRITE(2)
DEFINE_OVERWRITE(3)
static size_t (*const OVERWRITE[])(int **, int **) = {overwrite_0, overwrite_1, overwrite_2, overwrite_3};
static void release_overwrite(int *inputs, int *outputs) { (void)inputs, (void)outputs; }

static OrtCustomOpDomain *fused_domain;
static custom_operator *fused_operators;
static const OrtApi *domain_api;
static pthread_mutex_t domain_lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((destructor)) static void release_fused_domain(void)
{
    if (fused_domain)
        go_release_domain(domain_api, fused_domain);
    free(fused_operators);
}

static OrtStatus *make_domain(const OrtApi *api)
{
    custom_operator *operators = calloc((size_t)KERNEL_COUNT + 1, sizeof *operators);
    if (!operators)
        return go_status(api, GO_ORT_RUNTIME_EXCEPTION, "out of memory");
    OrtCustomOpDomain *domain = NULL;
    OrtStatus *made = go_create_domain(api, "graphopt.fused", &domain);
    if (made) {
        free(operators);
        return made;
    }
    for (int i = 0; i < KERNEL_COUNT; i++) {
        custom_operator *c = &operators[i];
        c->what = KERNELS[i];
        c->op.version = GRAPHOPT_ORT_API_VERSION;
        c->op.GetName = operator_name;
        c->op.GetExecutionProviderType = operator_provider;
        c->op.GetInputType = operator_input_type;
        c->op.GetInputTypeCount = operator_inputs;
        c->op.GetOutputType = operator_output_type;
        c->op.GetOutputTypeCount = operator_outputs;
        c->op.KernelDestroy = destroy_node;
        c->op.GetInputCharacteristic = operator_operand;
        c->op.GetOutputCharacteristic = operator_operand;
        c->op.GetInputMemoryType = operator_memory;
        c->op.GetVariadicInputMinArity = operator_arity;
        c->op.GetVariadicInputHomogeneity = operator_arity;
        c->op.GetVariadicOutputMinArity = operator_arity;
        c->op.GetVariadicOutputHomogeneity = operator_arity;
        c->op.CreateKernelV2 = create_node;
        c->op.KernelComputeV2 = compute_node;
        c->op.GetStartVersion = operator_version;
        int overwritten = KERNELS[i]->overwrites[0];
        if (overwritten >= 0 && overwritten < (int)(sizeof OVERWRITE / sizeof OVERWRITE[0])) {
            c->op.GetMayInplace = OVERWRITE[overwritten];
            c->op.ReleaseMayInplace = release_overwrite;
        }
        OrtStatus *status = go_domain_add_op(api, domain, &c->op);
        if (status) {
            go_release_domain(api, domain);
            free(operators);
            return status;
        }
    }
    fused_operators = operators;
    fused_domain = domain;
    domain_api = api;
    return NULL;
}

/* Adds the operators of this level to the options of a session. */
OrtStatus *LEVEL(register_operators)(OrtSessionOptions *options, const OrtApiBase *base)
{
    const OrtApi *api = base->GetApi(GRAPHOPT_ORT_API_VERSION);
    has_shape_reference = go_runtime_api_version(base) >= GO_ORT_SINCE_SHAPE_REFERENCE;
    pthread_mutex_lock(&domain_lock);
    OrtStatus *status = fused_domain ? NULL : make_domain(api);
    pthread_mutex_unlock(&domain_lock);
    return status ? status : go_options_add_domain(api, options, fused_domain);
}
