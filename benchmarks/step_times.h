/* How long the steps of kernels take, for benchmarks/steps.py, which puts this before library.h and calls it there. */
#include <time.h>

enum { MOST_TIMED = 2048, MOST_RUNS = 4096 };

typedef struct {
    const plan *of;
    const step *what;
    double now; /* seconds of the run at hand */
    int runs;
    float seconds[MOST_RUNS];
} timed_step;

static timed_step *timed[MOST_TIMED];
static int timed_steps;

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Adds to the time of a step in this run. */
static void add_time(const plan *p, const step *s, double seconds)
{
    for (int i = 0; i < timed_steps; i++)
        if (timed[i]->what == s) {
            timed[i]->now += seconds;
            return;
        }
    timed_step *t = timed_steps < MOST_TIMED ? calloc(1, sizeof *t) : NULL;
    if (!t)
        return;
    t->of = p;
    t->what = s;
    t->now = seconds;
    timed[timed_steps++] = t;
}

static const char *run_timed(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors)
{
    double before = seconds_now();
    const char *error = s->run(p, s, begin, end, tensors);
    add_time(p, s, seconds_now() - before);
    return error;
}

/* A run of a plan is over. */
static void end_times(const plan *p)
{
    for (int i = 0; i < timed_steps; i++)
        if (timed[i]->of == p) {
            timed[i]->seconds[timed[i]->runs++ % MOST_RUNS] = (float)timed[i]->now;
            timed[i]->now = 0;
        }
}

static int is_less(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* What a step does: its kind, floating-point operations, and bytes that it reads and writes, as far as they are known here. */
static void write_work(FILE *to, const step *s)
{
    const char *kind = "other";
    int64_t flops = 0, bytes = 0, rows = 0, depth = 0, columns = 0;
    if (s->run == run_contraction) {
        const contraction *x = s->state;
        kind = "products by vectors";
        if (x->packing == IN_COLUMNS || x->packing == AS_COLUMNS)
            kind = "products of few columns";
        rows = x->batches * x->rows;
        depth = x->depth;
        columns = x->columns;
        flops = 2 * rows * depth * columns;
        int64_t weights = packed_floats(depth, columns) * (int64_t)sizeof(float) * (x->panels ? 1 : x->batches);
        if (x->parts) {
            kind = "products by the matrix unit";
            weights = split_bytes(depth, columns);
        }
        bytes = weights + (rows * depth + rows * columns) * (int64_t)sizeof(float);
#if defined(MATRIX_UNIT)
    } else if (s->run == run_splitting) {
        const splitting *x = s->state;
        kind = "splitting rows";
        rows = x->rows;
        depth = x->depth;
        bytes = rows * depth * (int64_t)(sizeof(float) + 2 * PARTS);
#endif
    } else if (s->run == run_columns) {
        const column_step *x = s->state;
        kind = "sums of stacked rows";
        rows = s->units / x->strips;
        depth = x->depth;
        columns = x->width;
        for (int i = 0; i < x->what->loads; i++)
            bytes += rows * depth * (x->what->only[i] ? 1 : columns) * x->what->bytes[i];
        for (int i = 0; i < x->what->stores; i++)
            bytes += rows * columns * x->what->store_bytes[i];
    } else if (s->run == run_tiles) {
        const nest *x = s->state;
        for (int64_t i = 0; i < x->count; i++) {
            const piece *one = &x->pieces[i];
            int64_t elements_ = one->rows * one->columns, each = 0;
            int looked_up = 0;
            for (int k = 0; k < one->outers; k++)
                elements_ *= one->outer_count[k];
            for (int k = 0; k < one->what->loads; k++) {
                each += one->what->once[k] ? 0 : one->what->bytes[k];
                looked_up |= one->what->index[k] >= 0;
            }
            for (int k = 0; k < x->to->stores; k++)
                each += x->to->bytes[k];
            bytes += elements_ * each;
            kind = looked_up ? "lookups" : kind;
        }
        if (strcmp(kind, "lookups") != 0)
            kind = "element-wise";
    } else if (s->run == run_rows) {
        kind = "rows (softmax, sums)";
    } else if (s->run == run_recurrence) {
        const recurrence *x = s->state;
        kind = "recurrent steps";
        rows = x->steps * x->batch * x->code->directions;
        depth = x->size;
        columns = x->code->gates * x->size;
        flops = 2 * rows * depth * columns;
        bytes = (x->steps * x->code->directions * depth * columns + rows * (columns + depth)) * (int64_t)sizeof(float);
    }
    fprintf(to, "{\"kind\": \"%s\", \"rows\": %lld, \"depth\": %lld, \"columns\": %lld, \"flops\": %lld, \"bytes\": %lld", kind,
            (long long)rows, (long long)depth, (long long)columns, (long long)flops, (long long)bytes);
}

/* Writes a line of JSON for each step that ran: what it does, and the median of its seconds. */
__attribute__((visibility("default"))) int write_step_times(const char *file)
{
    FILE *to = fopen(file, "w");
    if (!to)
        return 1;
    for (int i = 0; i < timed_steps; i++) {
        timed_step *t = timed[i];
        int kept = t->runs < MOST_RUNS ? t->runs : MOST_RUNS;
        if (kept == 0 || t->what->units == 0)
            continue;
        qsort(t->seconds, (size_t)kept, sizeof *t->seconds, is_less);
        write_work(to, t->what);
        fprintf(to, ", \"seconds\": %.9f}\n", (double)t->seconds[kept / 2]);
    }
    return fclose(to) != 0;
}
