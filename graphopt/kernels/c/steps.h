/* Steps: what a plan is made of.
 *
 * A kernel works in steps over tensors: its inputs, its outputs and temporaries, numbered in this order. A step reads
 * whole tensors and writes whole tensors, in units that may run in any order on any thread. Steps of one stage do not
 * depend on each other; a stage begins when the one before it is done.
 */

enum { MAX_INPUTS = 128, MAX_OUTPUTS = 32, MAX_TEMPORARIES = 128, MAX_STEPS = 384, ALIGNMENT = 64 };
enum { MAX_TENSORS = MAX_INPUTS + MAX_OUTPUTS + MAX_TEMPORARIES };

/* What a step made of inputs that never change, for all plans of a node. The memory is shared: see `share`. */
typedef struct kept {
    struct kept *next;
    void *memory;
} kept;

/* A tensor that is used from one stage to another: the memory is that of others before and after. */
typedef struct {
    int64_t bytes, at;
    int first, last;
} temporary;

typedef struct plan plan;
typedef struct step step;

struct step {
    /* Runs units [begin, end); NULL, or what is wrong with the values that it read. */
    const char *(*run)(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors);
    void (*release)(void *state);
    void *state;
    int64_t units, work; /* work: about how many element operations, to decide when threads pay */
    int stage;
};

struct plan {
    plan *next; /* plans of other shapes */
    step step[MAX_STEPS];
    int steps, stage; /* stage: of the step that is planned next */
    int unfit;        /* whether a schedule did not fit the shapes: then another one is planned */
    int64_t pieces;   /* boxes of loops in all steps */
    const char *error;
    int streams;                /* too many pieces to keep: steps are planned again at each run, and run at once */
    void **stream_tensors;
    int inputs, outputs;
    shape *input_shape; /* the key: shapes of the inputs … */
    int64_t **value;    /* … and values of structural inputs, NULL for others */
    shape *output_shape;
    unsigned char *identity; /* inputs whose every load reads just the element that is stored, in the only step */
    const void *const *constant; /* data of inputs that never change, NULL for others; NULL when all may */
    kept **made;                 /* what steps made of them, for all plans of a node */
    int temporaries;
    temporary temporary[MAX_TEMPORARIES];
    int64_t temporary_bytes; /* of the memory that all of them lie in */
};

static const char TOO_MANY_PIECES[] __attribute__((unused)) = "too many pieces";
static const char NO_MEMORY[] __attribute__((unused)) = "out of memory";
static const char OUT_OF_RANGE[] __attribute__((unused)) = "an index lies outside of its tensor";

/* The data of a tensor that is a constant of the model; NULL for others. */
static inline const void *constant_of(const plan *p, int tensor)
{
    return p->constant && tensor < p->inputs ? p->constant[tensor] : NULL;
}

/* Adds a step, which takes over the state. In a stream it runs at once and is gone. */
SHARED const char *add_step(plan *p, step s)
{
    const char *error = NULL;
    s.stage = p->stage;
    if (p->stream_tensors) {
        if (s.units > 0)
            error = s.run(p, &s, 0, s.units, p->stream_tensors);
    } else if (p->steps < MAX_STEPS) {
        p->step[p->steps++] = s;
        return NULL;
    } else {
        error = "too many steps";
    }
    s.release(s.state);
    return error;
}

SHARED void free_steps(plan *p)
{
    for (int i = 0; i < p->steps; i++)
        p->step[i].release(p->step[i].state);
    for (int i = 0; i < p->temporaries && p->stream_tensors; i++)
        free(p->stream_tensors[p->inputs + p->outputs + i]);
    p->steps = p->stage = 0;
    p->pieces = 0;
    p->temporaries = 0;
    p->temporary_bytes = 0;
}

static inline void *take_aligned(int64_t bytes)
{
    void *memory = NULL;
    return posix_memalign(&memory, ALIGNMENT, bytes > 0 ? (size_t)bytes : 1) ? NULL : memory;
}

/* The next temporary, for a tensor of shape s that is used from stage `first` to stage `last`. In a stream it is taken at once,
 * else by the run that needs it. */
SHARED const char *add_temporary(plan *p, const shape *s, int64_t bytes, int first, int last)
{
    int64_t room = (elements(s) * bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    int number = p->temporaries++;
    if (p->stream_tensors) {
        void **tensor = &p->stream_tensors[p->inputs + p->outputs + number];
        *tensor = take_aligned(room);
        return *tensor ? NULL : NO_MEMORY;
    }
    p->temporary[number] = (temporary){room, -1, first, last};
    return NULL;
}

#if !defined(KERNELS_ONLY)
/* Finds a place for each temporary, beside all that are used at the same time: the largest first, each as low as it fits. */
static void place_temporaries(plan *p)
{
    p->temporary_bytes = 0;
    for (int round = 0; round < p->temporaries; round++) {
        temporary *next = NULL;
        for (int i = 0; i < p->temporaries; i++)
            if (p->temporary[i].at < 0 && (!next || p->temporary[i].bytes > next->bytes))
                next = &p->temporary[i];
        int64_t at = 0;
        for (int i = 0; i < p->temporaries; i++) {
            const temporary *other = &p->temporary[i];
            if (other->at >= 0 && other->first <= next->last && next->first <= other->last && other->at < at + next->bytes
                && at < other->at + other->bytes) {
                at = other->at + other->bytes;
                i = -1; /* it may lie over others now */
            }
        }
        next->at = at;
        if (at + next->bytes > p->temporary_bytes)
            p->temporary_bytes = at + next->bytes;
    }
}
#endif

/* Says that a schedule, made for other shapes, is not right for these. */
SHARED const char *does_not_fit(plan *p)
{
    p->unfit = 1;
    return "the schedule does not fit the shapes";
}

#if !defined(KERNELS_ONLY)
/* Memory that holds the same bytes for all who made them: nodes that multiply by the same weights (the steps of a decoder, sessions
 * of one model) find them in the same cache lines. */
typedef struct shared_memory {
    struct shared_memory *next;
    uint64_t hash;
    int64_t bytes, users;
    void *memory; /* from take_aligned */
} shared_memory;

static shared_memory *all_shared;
static int64_t shared_bytes; /* that a run may read: where they exceed the second-level cache, weights come from beyond it */
static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t hash_of(const unsigned char *memory, int64_t bytes)
{
    uint64_t hash = (uint64_t)bytes, word;
    for (; bytes >= 8; bytes -= 8, memory += 8) {
        memcpy(&word, memory, sizeof word);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    for (; bytes > 0; bytes--)
        hash = (hash ^ *memory++) * 0x9e3779b97f4a7c15u;
    return hash;
}

/* The memory to use in place of memory just filled, which is given away; NULL for lack of memory. Give it back with unshare. */
static void *share(void *memory, int64_t bytes)
{
    uint64_t hash = hash_of(memory, bytes);
    pthread_mutex_lock(&shared_lock);
    shared_memory *s = all_shared;
    while (s && !(s->hash == hash && s->bytes == bytes && memcmp(s->memory, memory, (size_t)bytes) == 0))
        s = s->next;
    if (s) {
        free(memory);
        s->users++;
    } else if ((s = malloc(sizeof *s)) != NULL) {
        *s = (shared_memory){all_shared, hash, bytes, 1, memory};
        all_shared = s;
        __atomic_fetch_add(&shared_bytes, bytes, __ATOMIC_RELAXED);
    } else {
        free(memory);
    }
    pthread_mutex_unlock(&shared_lock);
    return s ? s->memory : NULL;
}

static void unshare(const void *memory)
{
    pthread_mutex_lock(&shared_lock);
    for (shared_memory **at = &all_shared, *s; (s = *at) != NULL; at = &s->next)
        if (s->memory == memory) {
            if (--s->users == 0) {
                *at = s->next;
                __atomic_fetch_sub(&shared_bytes, s->bytes, __ATOMIC_RELAXED);
                free(s->memory);
                free(s);
            }
            break;
        }
    pthread_mutex_unlock(&shared_lock);
}

/* Memory of this thread for the time of one call. What does not fit is taken from the heap: give it back. */
enum { THREAD_SCRATCH = 5 << 18 };
static __thread __attribute__((aligned(64))) unsigned char thread_memory[THREAD_SCRATCH];

static inline void *take_scratch(int64_t bytes)
{
    return bytes <= THREAD_SCRATCH ? thread_memory : take_aligned(bytes);
}

static inline void give_scratch(void *memory)
{
    if (memory != thread_memory)
        free(memory);
}
#endif
