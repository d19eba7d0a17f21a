/* The planner: from index maps and the sizes at hand to plain strided loops.
 *
 * A kernel computes each output element from input elements that index maps point at (broadcast, transpose, slice,
 * concat, reshape, gather, blocked layout). The planner runs once per set of shapes. It starts from one loop over the
 * output's elements in storage order, walks the index maps backwards from output to input, and keeps every index an
 * affine function of the loop counters. Where a map divides (a reshape), it refines a loop into two; where a map
 * chooses (a concat, an unaligned block), it cuts the box of loops into two. In the limit a box is one element, so
 * every map is handled; in practice a pattern needs a box or two. What is left is a list of pieces: boxes of loops with
 * a base and a step per loop for each tensor.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Called from many generated functions: one copy is enough, and compiles faster. Where a library is compiled in parts,
 * the part with the kernels of one pattern sees only declarations of these (see compile.py). */
#ifndef SHARED
#define SHARED static __attribute__((noinline, unused))
#endif

enum { MAX_RANK = 8, MAX_LOOPS = 16, MAX_PIECES = 1 << 17 };

typedef struct {
    int rank;
    int64_t size[MAX_RANK];
} shape;

/* A box of loops. The flat index of the output element is base + sum(step[k] * i[k]). */
typedef struct {
    int loops;
    int64_t count[MAX_LOOPS];
    int64_t base;
    int64_t step[MAX_LOOPS];
    /* the request of a map that answered REFINE or CUT */
    int at_loop;
    int64_t at;
} domain;

/* An affine function of the loop counters. */
typedef struct {
    int64_t base;
    int64_t step[MAX_LOOPS];
} affine;

/* The index of a tensor's element: one flat index (rank < 0) or one affine function for each dimension. */
typedef struct {
    int rank;
    affine row[MAX_RANK];
} index_map;

typedef enum {
    DONE,    /* the map is affine over the whole box */
    REFINE,  /* loop at_loop must become two, the inner one of count at */
    CUT,     /* the box must be cut at counter at of loop at_loop */
    OUTSIDE, /* the box belongs to another operand or region */
    INVALID  /* the shapes contradict each other */
} verdict;

/* ---------------------------------------------------------------- shapes */

static inline int64_t elements(const shape *s)
{
    int64_t product = 1;
    for (int d = 0; d < s->rank; d++)
        product *= s->size[d];
    return product;
}

/* Whether the number of elements is one that int64_t holds: sizes that a model asks for may be anything. */
static inline int representable(const shape *s)
{
    int64_t product = 1;
    for (int d = 0; d < s->rank; d++)
        if (s->size[d] < 0 || __builtin_mul_overflow(product, s->size[d], &product))
            return 0;
    return 1;
}

static inline int same_shape(const shape *a, const shape *b)
{
    if (a->rank != b->rank)
        return 0;
    for (int d = 0; d < a->rank; d++)
        if (a->size[d] != b->size[d])
            return 0;
    return 1;
}

/* result = the shape that a and b broadcast to; false when they do not. */
SHARED int shape_broadcast(const shape *a, const shape *b, shape *result)
{
    shape out;
    out.rank = a->rank > b->rank ? a->rank : b->rank;
    for (int d = 0; d < out.rank; d++) {
        int da = d - (out.rank - a->rank), db = d - (out.rank - b->rank);
        int64_t sa = da < 0 ? 1 : a->size[da], sb = db < 0 ? 1 : b->size[db];
        if (sa != sb && sa != 1 && sb != 1)
            return 0;
        out.size[d] = sa == 1 ? sb : sa;
    }
    *result = out;
    return 1;
}

SHARED int shape_transpose(const shape *s, const int *permutation, shape *result)
{
    result->rank = s->rank;
    for (int d = 0; d < s->rank; d++)
        result->size[d] = s->size[permutation[d]];
    return 1;
}

/* ONNX Reshape: 0 keeps a size unless allow_zero, -1 takes what is left. */
SHARED int shape_reshape(const shape *s, const int64_t *target, int64_t rank, int allow_zero, shape *result)
{
    int unknown = -1;
    int64_t known = 1, total = elements(s);
    if (rank > MAX_RANK)
        return 0;
    result->rank = (int)rank;
    for (int d = 0; d < rank; d++) {
        int64_t size = target[d];
        if (size == 0 && !allow_zero) {
            if (d >= s->rank)
                return 0;
            size = s->size[d];
        }
        if (size == -1) {
            if (unknown >= 0)
                return 0;
            unknown = d;
            continue;
        }
        if (size < 0)
            return 0;
        result->size[d] = size;
        if (__builtin_mul_overflow(known, size, &known))
            return 0;
    }
    if (unknown >= 0) {
        if (known == 0 ? total != 0 : total % known != 0)
            return 0;
        result->size[unknown] = known == 0 ? 0 : total / known;
        return 1;
    }
    return known == total;
}

SHARED int shape_concat(const shape *a, const shape *b, int axis, shape *result)
{
    if (a->rank != b->rank)
        return 0;
    for (int d = 0; d < a->rank; d++)
        if (d != axis && a->size[d] != b->size[d])
            return 0;
    shape out = *a;
    out.size[axis] += b->size[axis];
    *result = out;
    return 1;
}

static inline int64_t clamp(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
}

/* ONNX Slice. start, step: for every dimension of s, ready for map_slice. axes may be NULL (0, 1, 2, …), steps too. */
SHARED int shape_slice(const shape *s, const int64_t *starts, const int64_t *ends, const int64_t *axes,
                              const int64_t *steps, int64_t n, int64_t *start, int64_t *step, shape *result)
{
    *result = *s;
    for (int d = 0; d < s->rank; d++)
        start[d] = 0, step[d] = 1;
    for (int64_t k = 0; k < n; k++) {
        int64_t axis = axes ? axes[k] : k, by = steps ? steps[k] : 1;
        if (axis < 0)
            axis += s->rank;
        if (axis < 0 || axis >= s->rank || by == 0 || by == INT64_MIN)
            return 0;
        int64_t size = s->size[axis], from = starts[k], to = ends[k];
        if (from < 0)
            from = from < -size ? 0 : from + size;
        if (to < 0)
            to = to < -size ? -1 : to + size;
        if (by > 0) {
            from = clamp(from, 0, size);
            to = clamp(to, 0, size);
            result->size[axis] = from >= to ? 0 : (to - from - 1) / by + 1;
        } else {
            from = clamp(from, 0, size - 1);
            to = clamp(to, -1, size - 1);
            result->size[axis] = from <= to ? 0 : (from - to - 1) / -by + 1;
        }
        start[axis] = from;
        step[axis] = result->size[axis] > 1 ? by : 1;
    }
    return 1;
}

/* Part number `part` of ONNX Split along an axis: sizes as given, or equal parts (the last one smaller). */
SHARED int shape_split(const shape *s, int axis, const int64_t *sizes, int64_t parts, int part, int64_t *start,
                              shape *result)
{
    *result = *s;
    int64_t size = s->size[axis], from = 0;
    if (sizes) {
        int64_t total = 0;
        for (int64_t k = 0; k < parts; k++) {
            if (sizes[k] < 0)
                return 0;
            if (k < part)
                from += sizes[k];
            total += sizes[k];
        }
        if (total != size)
            return 0;
        result->size[axis] = sizes[part];
    } else {
        int64_t chunk = (size + parts - 1) / parts;
        from = clamp(chunk * part, 0, size);
        result->size[axis] = clamp(size - from, 0, chunk);
    }
    *start = from;
    return 1;
}

/* ONNX Expand: s broadcast to the target, which may have ones and fewer dimensions. */
SHARED int shape_expand(const shape *s, const int64_t *target, int64_t rank, shape *result)
{
    shape wanted;
    if (rank > MAX_RANK)
        return 0;
    wanted.rank = (int)rank;
    for (int d = 0; d < rank; d++) {
        if (target[d] < 0)
            return 0;
        wanted.size[d] = target[d];
    }
    return shape_broadcast(s, &wanted, result) && representable(result);
}

/* ONNX Pad: before[d] = what stands in front in dimension d. axes may be NULL. */
SHARED int shape_pad(const shape *s, const int64_t *pads, int64_t n, const int64_t *axes, int64_t *before,
                            shape *result)
{
    *result = *s;
    for (int d = 0; d < s->rank; d++)
        before[d] = 0;
    for (int64_t k = 0; k < n / 2; k++) {
        int64_t axis = axes ? axes[k] : k;
        if (axis < 0)
            axis += s->rank;
        if (axis < 0 || axis >= s->rank)
            return 0;
        before[axis] = pads[k];
        if (__builtin_add_overflow(result->size[axis], pads[k], &result->size[axis])
            || __builtin_add_overflow(result->size[axis], pads[k + n / 2], &result->size[axis]))
            return 0;
    }
    return representable(result);
}

/* ONNX Gather along an axis. */
SHARED int shape_gather(const shape *s, const shape *indices, int axis, shape *result)
{
    if (s->rank - 1 + indices->rank > MAX_RANK)
        return 0;
    int rank = 0;
    shape out;
    for (int d = 0; d < axis; d++)
        out.size[rank++] = s->size[d];
    for (int d = 0; d < indices->rank; d++)
        out.size[rank++] = indices->size[d];
    for (int d = axis + 1; d < s->rank; d++)
        out.size[rank++] = s->size[d];
    out.rank = rank;
    *result = out;
    return 1;
}

SHARED int shape_tile(const shape *s, const int64_t *repeats, int64_t n, shape *result)
{
    if (n != s->rank)
        return 0;
    result->rank = s->rank;
    for (int d = 0; d < s->rank; d++)
        if (__builtin_mul_overflow(s->size[d], repeats[d], &result->size[d]))
            return 0;
    return representable(result);
}

/* ---------------------------------------------------------------- affine indices */

static inline verdict ask_refine(domain *d, int loop, int64_t inner)
{
    if (d->loops == MAX_LOOPS) { /* no room for another loop: cut off what one inner round covers */
        d->at_loop = loop;
        d->at = inner;
        return CUT;
    }
    d->at_loop = loop;
    d->at = inner;
    return REFINE;
}

static inline verdict ask_cut(domain *d, int loop, int64_t at)
{
    d->at_loop = loop;
    d->at = at;
    return CUT;
}

static inline void bounds(const domain *d, const affine *a, int64_t *least, int64_t *greatest)
{
    *least = *greatest = a->base;
    for (int k = 0; k < d->loops; k++) {
        int64_t span = a->step[k] * (d->count[k] - 1);
        if (span < 0)
            *least += span;
        else
            *greatest += span;
    }
}

static inline int64_t floor_divide(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static inline int64_t greatest_common_divisor(int64_t a, int64_t b)
{
    while (b) {
        int64_t r = a % b;
        a = b;
        b = r;
    }
    return a < 0 ? -a : a;
}

/* Makes two loops of one, as a map that answered REFINE asked. */
static inline void refine(domain *d)
{
    int k = d->at_loop;
    memmove(&d->count[k + 1], &d->count[k], (size_t)(d->loops - k) * sizeof d->count[0]);
    memmove(&d->step[k + 1], &d->step[k], (size_t)(d->loops - k) * sizeof d->step[0]);
    d->count[k] /= d->at;
    d->count[k + 1] = d->at;
    d->step[k] *= d->at;
    d->loops++;
}

/* quotient and remainder of a non-negative affine function by a positive size, as affine functions. */
SHARED verdict divide(domain *d, const affine *a, int64_t size, affine *quotient, affine *remainder)
{
    affine q, r;
    memset(&q, 0, sizeof q);
    memset(&r, 0, sizeof r);
    q.base = floor_divide(a->base, size);
    r.base = a->base - q.base * size;
    int64_t least = r.base, greatest = r.base, widest = 0;
    int loop = -1;
    for (int k = 0; k < d->loops; k++) {
        if (d->count[k] == 1)
            continue;
        q.step[k] = a->step[k] / size; /* towards zero: a remainder keeps the sign of its step */
        r.step[k] = a->step[k] - q.step[k] * size;
        int64_t span = r.step[k] * (d->count[k] - 1);
        if (span < 0)
            least += span;
        else
            greatest += span;
        if ((span < 0 ? -span : span) > widest) {
            widest = span < 0 ? -span : span;
            loop = k;
        }
    }
    if (least >= 0 && greatest < size) {
        *quotient = q;
        *remainder = r;
        return DONE;
    }
    if (loop < 0)
        return INVALID;
    int64_t step = r.step[loop], count = d->count[loop];
    int64_t period = size / greatest_common_divisor(step, size); /* counters after which the remainder returns */
    if (step > 0) {
        /* the loop is aligned when no other loop and no base lets it carry in mid-period */
        int64_t others = greatest - step * (count - 1);
        if (others + step * (period - 1) < size || r.base == 0) {
            if (count % period == 0 && count > period && period > 1)
                return ask_refine(d, loop, period);
            if (count > period && period > 1)
                return ask_cut(d, loop, count - count % period);
        }
        int64_t carry = (size - r.base + step - 1) / step; /* first counter that carries, other loops at zero */
        if (carry > 0 && carry < count)
            return ask_cut(d, loop, carry);
    }
    return ask_cut(d, loop, count / 2);
}

/* OUTSIDE where a lies outside of [low, high) over the whole box, DONE where inside, a cut where both occur. */
SHARED verdict require_range(domain *d, const affine *a, int64_t low, int64_t high)
{
    int64_t least, greatest;
    bounds(d, a, &least, &greatest);
    if (greatest < low || least >= high)
        return OUTSIDE;
    if (least >= low && greatest < high)
        return DONE;
    int loop = 0;
    int64_t widest = 0;
    for (int k = 0; k < d->loops; k++) {
        int64_t span = a->step[k] * (d->count[k] - 1);
        if ((span < 0 ? -span : span) > widest) {
            widest = span < 0 ? -span : span;
            loop = k;
        }
    }
    int64_t step = a->step[loop], count = d->count[loop];
    int64_t span = step * (count - 1);
    int64_t rest_least = least - (span < 0 ? span : 0), rest_greatest = greatest - (span > 0 ? span : 0);
    int64_t at[4] = {0, 0, 0, 0};
    if (step > 0) {
        at[0] = -floor_divide(-(low - rest_least), step);       /* first counter at which all is at least low */
        at[1] = floor_divide(high - 1 - rest_greatest, step) + 1; /* first at which not all is below high */
        at[2] = -floor_divide(-(low - rest_greatest), step);    /* first at which any is at least low */
        at[3] = -floor_divide(-(high - rest_least), step);      /* first at which none is below high */
    } else {
        at[0] = floor_divide(rest_least - low, -step) + 1;
        at[1] = -floor_divide(-(rest_greatest - high + 1), -step);
        at[2] = floor_divide(rest_greatest - low, -step) + 1;
        at[3] = -floor_divide(-(rest_least - high + 1), -step);
    }
    for (int k = 0; k < 4; k++)
        if (at[k] > 0 && at[k] < count)
            return ask_cut(d, loop, at[k]);
    return ask_cut(d, loop, count / 2);
}

/* ---------------------------------------------------------------- index maps, from output to input */

SHARED void affine_add(const domain *d, affine *sum, const affine *a, int64_t times)
{
    sum->base += a->base * times;
    for (int k = 0; k < d->loops; k++)
        sum->step[k] += a->step[k] * times;
}

/* The index of the output element itself. */
static inline void map_output(const domain *d, index_map *m)
{
    m->rank = -1;
    m->row[0].base = d->base;
    memcpy(m->row[0].step, d->step, sizeof d->step);
}

/* Flat form of a map into a tensor of shape s. */
SHARED void flatten(const domain *d, index_map *m, const shape *s)
{
    if (m->rank < 0)
        return;
    affine flat;
    memset(&flat, 0, sizeof flat);
    int64_t stride = 1;
    for (int k = s->rank - 1; k >= 0; k--) {
        affine_add(d, &flat, &m->row[k], stride);
        stride *= s->size[k];
    }
    m->rank = -1;
    m->row[0] = flat;
}

/* Form by dimension of a map into a tensor of shape s. */
SHARED verdict unflatten(domain *d, index_map *m, const shape *s)
{
    if (m->rank >= 0)
        return DONE;
    index_map out;
    affine rest = m->row[0];
    out.rank = s->rank;
    for (int k = s->rank - 1; k >= 0; k--) {
        if (s->size[k] == 1 || k == 0) {
            if (k == 0)
                out.row[k] = rest;
            else
                memset(&out.row[k], 0, sizeof out.row[k]);
            continue;
        }
        verdict v = divide(d, &rest, s->size[k], &rest, &out.row[k]);
        if (v != DONE)
            return v;
    }
    *m = out;
    return DONE;
}

/* From the index into a tensor of shape `to` to the index into an operand of shape `from` that was broadcast to it. */
SHARED verdict map_broadcast(domain *d, index_map *m, const shape *to, const shape *from)
{
    if (same_shape(to, from))
        return DONE;
    if (elements(from) == 1) {
        memset(m, 0, sizeof *m);
        m->rank = -1;
        return DONE;
    }
    verdict v = unflatten(d, m, to);
    if (v != DONE)
        return v;
    int skip = to->rank - from->rank;
    for (int k = 0; k < from->rank; k++) {
        affine row = m->row[k + skip];
        if (from->size[k] == 1)
            memset(&row, 0, sizeof row);
        m->row[k] = row;
    }
    m->rank = from->rank;
    return DONE;
}

/* result[k] = operand[permutation[k]]. */
SHARED verdict map_transpose(domain *d, index_map *m, const shape *result, const int *permutation)
{
    verdict v = unflatten(d, m, result);
    if (v != DONE)
        return v;
    index_map out;
    out.rank = m->rank;
    for (int k = 0; k < m->rank; k++)
        out.row[permutation[k]] = m->row[k];
    *m = out;
    return DONE;
}

SHARED verdict map_reshape(domain *d, index_map *m, const shape *result)
{
    flatten(d, m, result);
    return DONE;
}

SHARED verdict map_slice(domain *d, index_map *m, const shape *result, const int64_t *start, const int64_t *step)
{
    verdict v = unflatten(d, m, result);
    if (v != DONE)
        return v;
    for (int k = 0; k < m->rank; k++) {
        m->row[k].base = m->row[k].base * step[k] + start[k];
        for (int l = 0; l < d->loops; l++)
            m->row[k].step[l] *= step[k];
    }
    return DONE;
}

/* The part [start, start + size) along an axis; OUTSIDE for elements of other parts. */
SHARED verdict map_part(domain *d, index_map *m, const shape *result, int axis, int64_t start, int64_t size)
{
    verdict v = unflatten(d, m, result);
    if (v != DONE)
        return v;
    v = require_range(d, &m->row[axis], start, start + size);
    m->row[axis].base -= start;
    return v;
}

/* The elements that a pad added along `axis` on one side (0 before, 1 after) and along no earlier axis. */
SHARED verdict require_padding(domain *d, index_map *m, const shape *result, const shape *from,
                                      const int64_t *before, int axis, int side)
{
    verdict v = unflatten(d, m, result);
    for (int k = 0; k < axis && v == DONE; k++)
        v = require_range(d, &m->row[k], before[k], before[k] + from->size[k]);
    if (v != DONE)
        return v;
    int64_t edge = before[axis] + from->size[axis];
    return side == 0 ? require_range(d, &m->row[axis], INT64_MIN / 4, before[axis])
                     : require_range(d, &m->row[axis], edge, INT64_MAX / 4);
}

/* The elements that a pad kept. */
SHARED verdict map_pad(domain *d, index_map *m, const shape *result, const shape *from, const int64_t *before)
{
    verdict v = unflatten(d, m, result);
    for (int k = 0; k < from->rank && v == DONE; k++) {
        v = require_range(d, &m->row[k], before[k], before[k] + from->size[k]);
        m->row[k].base -= before[k];
    }
    return v;
}

/* Gather with known indices: each run of indices in arithmetic progression is one box. */
SHARED verdict map_gather(domain *d, index_map *m, const shape *result, const shape *from, const shape *indices,
                                 const int64_t *value, int axis)
{
    verdict v = unflatten(d, m, result);
    if (v != DONE)
        return v;
    affine flat;
    memset(&flat, 0, sizeof flat);
    int64_t stride = 1;
    for (int k = indices->rank - 1; k >= 0; k--) {
        affine_add(d, &flat, &m->row[axis + k], stride);
        stride *= indices->size[k];
    }
    affine row;
    memset(&row, 0, sizeof row);
    int loop = -1;
    for (int k = 0; k < d->loops; k++) {
        if (flat.step[k] == 0 || d->count[k] == 1)
            continue;
        if (loop >= 0) /* several loops walk the indices: take the outer one step by step */
            return ask_cut(d, loop, 1);
        loop = k;
    }
    int64_t size = from->size[axis];
#define INDEX_AT(position) (value[position] < 0 ? value[position] + size : value[position])
    row.base = INDEX_AT(flat.base);
    if (row.base < 0 || row.base >= size)
        return INVALID;
    if (loop >= 0) {
        int64_t second = INDEX_AT(flat.base + flat.step[loop]), by = second - row.base, run = 1;
        if (second < 0 || second >= size)
            return INVALID;
        while (run < d->count[loop] && INDEX_AT(flat.base + run * flat.step[loop]) == row.base + run * by)
            run++;
        if (run < d->count[loop])
            return ask_cut(d, loop, run);
        int64_t last = row.base + (run - 1) * by;
        if (last < 0 || last >= size)
            return INVALID;
        row.step[loop] = by;
    }
#undef INDEX_AT
    index_map out;
    out.rank = from->rank;
    for (int k = 0; k < axis; k++)
        out.row[k] = m->row[k];
    out.row[axis] = row;
    for (int k = axis + 1; k < from->rank; k++)
        out.row[k] = m->row[k - 1 + indices->rank];
    *m = out;
    return DONE;
}

/* Lookup: m becomes the index into the data without the picked row, `where` the index into the indices. */
SHARED verdict map_lookup(domain *d, index_map *m, index_map *where, const shape *result, const shape *data,
                          const shape *indices, int axis)
{
    verdict v = unflatten(d, m, result);
    if (v != DONE)
        return v;
    index_map out;
    memset(&out, 0, sizeof out);
    out.rank = data->rank;
    for (int k = 0; k < axis; k++)
        out.row[k] = m->row[k];
    for (int k = axis + 1; k < data->rank; k++)
        out.row[k] = m->row[k - 1 + indices->rank];
    where->rank = indices->rank;
    for (int k = 0; k < indices->rank; k++)
        where->row[k] = m->row[axis + k];
    flatten(d, where, indices);
    *m = out;
    return DONE;
}

/* Elements of a slice along axes [begin, end). */
static inline int64_t size_of_axes(const shape *s, int begin, int end)
{
    int64_t product = 1;
    for (int d = begin; d < end && d < s->rank; d++)
        product *= s->size[d];
    return product;
}

/* The index into outer x width elements of a box of outer x depth x width elements. */
static inline affine without_depth(const domain *d, int64_t depth, int64_t width)
{
    affine a;
    memset(&a, 0, sizeof a);
    for (int k = 0; k < d->loops; k++) {
        int outer = depth * width > 0 && d->step[k] >= depth * width;
        a.step[k] = outer ? d->step[k] / depth : d->step[k] >= width ? 0 : d->step[k];
    }
    return a;
}

/* Elements from one index along an axis to the next. */
static inline int64_t stride_of(const shape *s, int axis)
{
    int64_t stride = 1;
    for (int d = axis + 1; d < s->rank; d++)
        stride *= s->size[d];
    return stride;
}

SHARED verdict map_tile(domain *d, index_map *m, const shape *result, const shape *from)
{
    verdict v = unflatten(d, m, result);
    for (int k = 0; k < from->rank && v == DONE; k++) {
        affine round;
        if (from->size[k] != result->size[k])
            v = divide(d, &m->row[k], from->size[k], &round, &m->row[k]);
    }
    return v;
}
