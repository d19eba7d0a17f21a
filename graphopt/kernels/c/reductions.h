/* Reductions over elements that lie side by side.
 *
 * Sums of floats go through 64 partial sums, whatever the processor's vectors, and are put together pairwise: as
 * accurate as a pairwise sum, and the same on every machine. Callers sum up to a few thousand elements at a time and
 * add what they get in double precision.
 */

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

typedef float vector_f32 __attribute__((vector_size(64)));
typedef int32_t vector_i32 __attribute__((vector_size(64)));
enum { LANES = 16 };

static const int32_t LANE_NUMBERS[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* The lanes of a vector, `by` further on. */
#define LANE(k, by) (((k) + (by)) % LANES)
#define LANES_FROM(by)                                                                                                 \
    LANE(0, by), LANE(1, by), LANE(2, by), LANE(3, by), LANE(4, by), LANE(5, by), LANE(6, by), LANE(7, by),            \
        LANE(8, by), LANE(9, by), LANE(10, by), LANE(11, by), LANE(12, by), LANE(13, by), LANE(14, by), LANE(15, by)
#if defined(__clang__) || __GNUC__ >= 12
#define ROTATED(v, by) __builtin_shufflevector(v, v, LANES_FROM(by))
#else
#define ROTATED(v, by) __builtin_shuffle(v, (vector_i32){LANES_FROM(by)})
#endif

/* Where the last vector of n floats lies. What is computed for a reduction has it apart, behind the whole vectors: read
 * where it overlaps them, it would wait for two stores. Its first lanes repeat elements. */
ALWAYS int64_t last_vector(int64_t n, int apart) { return apart && n % LANES ? n - n % LANES : n - LANES; }

/* The sum of n floats, or of their squares; n is at most a few thousand. */
#define DEFINE_SUM_F32(name, TERM)                                                                                     \
    ALWAYS double name(const float *x, int64_t n, int apart)                                                           \
    {                                                                                                                  \
        if (n < LANES) {                                                                                               \
            double sum = 0.0;                                                                                          \
            for (int64_t i = 0; i < n; i++)                                                                            \
                sum += (double)TERM(x[i]);                                                                             \
            return sum;                                                                                                \
        }                                                                                                              \
        vector_f32 a = {0}, b = {0}, c = {0}, d = {0}, v, w, y, z;                                                     \
        int64_t i = 0;                                                                                                 \
        for (; i + 4 * LANES <= n; i += 4 * LANES) {                                                                   \
            memcpy(&v, x + i, sizeof v);                                                                               \
            memcpy(&w, x + i + LANES, sizeof v);                                                                       \
            memcpy(&y, x + i + 2 * LANES, sizeof v);                                                                   \
            memcpy(&z, x + i + 3 * LANES, sizeof v);                                                                   \
            a += TERM(v);                                                                                              \
            b += TERM(w);                                                                                              \
            c += TERM(y);                                                                                              \
            d += TERM(z);                                                                                              \
        }                                                                                                              \
        for (; i + LANES <= n; i += LANES) {                                                                           \
            memcpy(&v, x + i, sizeof v);                                                                               \
            a += TERM(v);                                                                                              \
        }                                                                                                              \
        if (i < n) { /* the last vector again, without the lanes that were summed */                                   \
            vector_i32 number;                                                                                         \
            memcpy(&number, LANE_NUMBERS, sizeof number);                                                              \
            memcpy(&v, x + last_vector(n, apart), sizeof v);                                                           \
            v = (vector_f32)((vector_i32)v & (number >= (int32_t)(i - (n - LANES))));                                  \
            b += TERM(v);                                                                                              \
        }                                                                                                              \
        a = (a + b) + (c + d);                                                                                         \
        a += ROTATED(a, 8);                                                                                            \
        a += ROTATED(a, 4);                                                                                            \
        a += ROTATED(a, 2);                                                                                            \
        a += ROTATED(a, 1);                                                                                            \
        return (double)a[0];                                                                                           \
    }
#define TERM_ITSELF(x) (x)
#define TERM_SQUARE(x) ((x) * (x))
DEFINE_SUM_F32(sum_f32, TERM_ITSELF)
DEFINE_SUM_F32(sum_squares_f32, TERM_SQUARE)

/* The bound of n floats and one more; NaN where any is NaN.
 *
 * A bound of vectors is one instruction on most processors, but it loses a NaN that comes first. So whether there is one
 * is found out beside, two vectors at a time. */
#if defined(__AVX512F__)
typedef __mmask16 any_nan;
#define NO_NAN 0
#define MAXIMUM_OF(a, v) ((vector_f32)_mm512_max_ps((__m512)(a), (__m512)(v)))
#define MINIMUM_OF(a, v) ((vector_f32)_mm512_min_ps((__m512)(a), (__m512)(v)))
#define NAN_IN(found, v, w) _kor_mask16(found, _mm512_cmp_ps_mask((__m512)(v), (__m512)(w), _CMP_UNORD_Q))
ALWAYS int is_any(any_nan found) { return found != 0; }
#else
typedef vector_i32 any_nan;
#define NO_NAN {0}
#define CHOSEN(take, v, a) ((vector_f32)(((take) & (vector_i32)(v)) | (~(take) & (vector_i32)(a))))
#define MAXIMUM_OF(a, v) CHOSEN((a) < (v), v, a)
#define MINIMUM_OF(a, v) CHOSEN((a) > (v), v, a)
#define NAN_IN(found, v, w) ((found) | ((v) != (v)) | ((w) != (w)))
ALWAYS int is_any(any_nan found)
{
    int64_t part[8], any = 0;
    memcpy(part, &found, sizeof part);
    for (int k = 0; k < 8; k++)
        any |= part[k];
    return any != 0;
}
#endif
#define DEFINE_BOUND_F32(name, BOUND, one)                                                                             \
    ALWAYS float name(const float *x, int64_t n, float bound, int apart)                                               \
    {                                                                                                                  \
        if (n < LANES) {                                                                                               \
            for (int64_t i = 0; i < n; i++)                                                                            \
                bound = one(bound, x[i]);                                                                              \
            return bound;                                                                                              \
        }                                                                                                              \
        vector_f32 a, b, c, d, v, w, y, z;                                                                             \
        memcpy(&a, x, sizeof a);                                                                                       \
        memcpy(&b, x + last_vector(n, apart), sizeof b);                                                               \
        any_nan found = NO_NAN;                                                                                        \
        found = NAN_IN(found, a, b);                                                                                   \
        int64_t i = LANES;                                                                                             \
        c = a, d = b;                                                                                                  \
        for (; i + 4 * LANES <= n; i += 4 * LANES) {                                                                   \
            memcpy(&v, x + i, sizeof v);                                                                               \
            memcpy(&w, x + i + LANES, sizeof w);                                                                       \
            memcpy(&y, x + i + 2 * LANES, sizeof y);                                                                   \
            memcpy(&z, x + i + 3 * LANES, sizeof z);                                                                   \
            a = BOUND(a, v);                                                                                           \
            b = BOUND(b, w);                                                                                           \
            c = BOUND(c, y);                                                                                           \
            d = BOUND(d, z);                                                                                           \
            found = NAN_IN(found, v, w);                                                                               \
            found = NAN_IN(found, y, z);                                                                               \
        }                                                                                                              \
        for (; i + 2 * LANES <= n; i += 2 * LANES) {                                                                   \
            memcpy(&v, x + i, sizeof v);                                                                               \
            memcpy(&w, x + i + LANES, sizeof w);                                                                       \
            a = BOUND(a, v);                                                                                           \
            b = BOUND(b, w);                                                                                           \
            found = NAN_IN(found, v, w);                                                                               \
        }                                                                                                              \
        if (i + LANES <= n) {                                                                                          \
            memcpy(&v, x + i, sizeof v);                                                                               \
            a = BOUND(a, v);                                                                                           \
            found = NAN_IN(found, v, v);                                                                               \
        }                                                                                                              \
        a = BOUND(BOUND(a, c), BOUND(b, d));                                                                           \
        a = BOUND(a, ROTATED(a, 8));                                                                                   \
        a = BOUND(a, ROTATED(a, 4));                                                                                   \
        a = BOUND(a, ROTATED(a, 2));                                                                                   \
        a = BOUND(a, ROTATED(a, 1));                                                                                   \
        return is_any(found) ? NAN : one(bound, a[0]);                                                                 \
    }
#define DEFINE_EITHER(name, type, LESS)                                                                                \
    ALWAYS type name(type a, type b) { return a LESS b || b != b ? b : a; }
DEFINE_EITHER(greater_f32, float, <)
DEFINE_EITHER(lesser_f32, float, >)
DEFINE_EITHER(greater_f64, double, <)
DEFINE_EITHER(lesser_f64, double, >)
DEFINE_BOUND_F32(maximum_of_f32, MAXIMUM_OF, greater_f32)
DEFINE_BOUND_F32(minimum_of_f32, MINIMUM_OF, lesser_f32)

/* The same for double precision, in eight partial results. */
#define DEFINE_F64(name, START, NEXT)                                                                                  \
    ALWAYS double name(const double *x, int64_t n, double start)                                                       \
    {                                                                                                                  \
        double part[8];                                                                                                \
        for (int k = 0; k < 8; k++)                                                                                    \
            part[k] = START;                                                                                           \
        int64_t i = 0;                                                                                                 \
        for (; i + 8 <= n; i += 8)                                                                                     \
            for (int k = 0; k < 8; k++)                                                                                \
                part[k] = NEXT(part[k], x[i + k]);                                                                     \
        for (; i < n; i++)                                                                                             \
            part[0] = NEXT(part[0], x[i]);                                                                             \
        for (int width = 4; width > 0; width /= 2)                                                                     \
            for (int k = 0; k < width; k++)                                                                            \
                part[k] = NEXT(part[k], part[k + width]);                                                              \
        return NEXT(start, part[0]);                                                                                   \
    }
#define PLUS(a, b) ((a) + (b))
#define TIMES(a, b) ((a) * (b))
DEFINE_F64(sum_f64, 0.0, PLUS)
DEFINE_F64(maximum_of_f64, start, greater_f64)
DEFINE_F64(minimum_of_f64, start, lesser_f64)
DEFINE_F64(product_f64, 1.0, TIMES)

/* Products of floats, in double precision: their range, not only their digits, would suffer. */
ALWAYS double product_f32(const float *x, int64_t n, double start, int apart)
{
    double part[4] = {1.0, 1.0, 1.0, 1.0};
    int64_t i = 0, whole = n < LANES ? n : n - n % LANES;
    for (; i + 4 <= whole; i += 4)
        for (int k = 0; k < 4; k++)
            part[k] *= (double)x[i + k];
    for (; i < n; i++)
        part[0] *= (double)x[i < whole ? i : i - (n - LANES) + last_vector(n, apart)];
    return start * ((part[0] * part[1]) * (part[2] * part[3]));
}

/* Integers wrap. */
#define DEFINE_INTEGER_REDUCTIONS(type, name)                                                                          \
    ALWAYS type sum_##name(const type *x, int64_t n, type start)                                                       \
    {                                                                                                                  \
        uint64_t sum = (uint64_t)start;                                                                                \
        for (int64_t i = 0; i < n; i++)                                                                                \
            sum += (uint64_t)x[i];                                                                                     \
        return (type)sum;                                                                                              \
    }                                                                                                                  \
    ALWAYS type product_##name(const type *x, int64_t n, type start)                                                   \
    {                                                                                                                  \
        uint64_t product = (uint64_t)start;                                                                            \
        for (int64_t i = 0; i < n; i++)                                                                                \
            product *= (uint64_t)x[i];                                                                                 \
        return (type)product;                                                                                          \
    }                                                                                                                  \
    ALWAYS type maximum_of_##name(const type *x, int64_t n, type bound)                                                \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; i++)                                                                                \
            bound = x[i] > bound ? x[i] : bound;                                                                       \
        return bound;                                                                                                  \
    }                                                                                                                  \
    ALWAYS type minimum_of_##name(const type *x, int64_t n, type bound)                                                \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; i++)                                                                                \
            bound = x[i] < bound ? x[i] : bound;                                                                       \
        return bound;                                                                                                  \
    }
DEFINE_INTEGER_REDUCTIONS(int8_t, i8)
DEFINE_INTEGER_REDUCTIONS(int16_t, i16)
DEFINE_INTEGER_REDUCTIONS(int32_t, i32)
DEFINE_INTEGER_REDUCTIONS(int64_t, i64)
DEFINE_INTEGER_REDUCTIONS(uint8_t, u8)
DEFINE_INTEGER_REDUCTIONS(uint16_t, u16)
DEFINE_INTEGER_REDUCTIONS(uint32_t, u32)
DEFINE_INTEGER_REDUCTIONS(uint64_t, u64)

/* Where a bound stands: the bound, and how many elements lie before it; -1 where there was none yet. NaN is beyond every number.
 * Of n elements, which `before` others precede, the bound is found first, and then its place, a vector at a time. */
#define DEFINE_POSITIONS(type, suffix, LEAST, GREATEST, ...)                                                           \
    typedef struct {                                                                                                   \
        type bound;                                                                                                    \
        int64_t at;                                                                                                    \
    } position_##suffix;                                                                                               \
    ALWAYS int is_bound_##suffix(type x, type bound) { return x == bound || x != x; }                                  \
    /* Whether one of LANES elements is the bound; where that is NaN, so is one of them. */                            \
    ALWAYS int holds_bound_##suffix(const type *x, type bound)                                                         \
    {                                                                                                                  \
        int found = 0;                                                                                                 \
        for (int i = 0; i < LANES; i++)                                                                                \
            found |= is_bound_##suffix(x[i], bound);                                                                   \
        return found;                                                                                                  \
    }                                                                                                                  \
    ALWAYS int64_t first_place_##suffix(const type *x, int64_t n, type bound, int apart)                               \
    {                                                                                                                  \
        int64_t i = 0, ahead = apart && n >= LANES ? last_vector(n, 1) - (n - LANES) : 0;                              \
        for (; i + LANES <= n && !holds_bound_##suffix(x + i, bound); i += LANES) {                                    \
        }                                                                                                              \
        for (int64_t whole = n - n % LANES; !is_bound_##suffix(x[i < whole ? i : i + ahead], bound); i++) {            \
        }                                                                                                              \
        return i;                                                                                                      \
    }                                                                                                                  \
    ALWAYS int64_t last_place_##suffix(const type *x, int64_t n, type bound, int apart)                                \
    {                                                                                                                  \
        int64_t i = n - 1, whole = n - n % LANES, ahead = apart && n >= LANES ? last_vector(n, 1) - (n - LANES) : 0;   \
        for (; i >= whole && !is_bound_##suffix(x[i + ahead], bound); i--) {                                           \
        }                                                                                                              \
        for (; i < whole && !holds_bound_##suffix(x + i - LANES + 1, bound); i -= LANES) {                             \
        }                                                                                                              \
        for (; i < whole && !is_bound_##suffix(x[i], bound); i--) {                                                    \
        }                                                                                                              \
        return i;                                                                                                      \
    }                                                                                                                  \
    DEFINE_POSITION(first_greatest, maximum_of, type, suffix, LEAST, >, first_place, __VA_ARGS__)                      \
    DEFINE_POSITION(last_greatest, maximum_of, type, suffix, LEAST, >=, last_place, __VA_ARGS__)                       \
    DEFINE_POSITION(first_least, minimum_of, type, suffix, GREATEST, <, first_place, __VA_ARGS__)                      \
    DEFINE_POSITION(last_least, minimum_of, type, suffix, GREATEST, <=, last_place, __VA_ARGS__)
/* 1 OR_MORE 1 says whether of equal elements the later one counts: of two that are NaN, too. */
#define DEFINE_POSITION(name, bound_of, type, suffix, START, OR_MORE, place, ...)                                      \
    ALWAYS position_##suffix name##_##suffix(const type *x, int64_t n, int64_t before, position_##suffix best, int apart) \
    {                                                                                                                  \
        type bound = bound_of##_##suffix(x, n, START __VA_ARGS__);                                                     \
        int beyond = bound != bound ? best.bound == best.bound || 1 OR_MORE 1 : bound OR_MORE best.bound;              \
        if (best.at >= 0 && !beyond)                                                                                   \
            return best;                                                                                               \
        return (position_##suffix){bound, before + place##_##suffix(x, n, bound, apart)};                              \
    }
#define AND_APART , apart
DEFINE_POSITIONS(float, f32, -INFINITY, INFINITY, AND_APART)
DEFINE_POSITIONS(double, f64, -(double)INFINITY, (double)INFINITY, )
DEFINE_POSITIONS(int8_t, i8, INT8_MIN, INT8_MAX, )
DEFINE_POSITIONS(int16_t, i16, INT16_MIN, INT16_MAX, )
DEFINE_POSITIONS(int32_t, i32, INT32_MIN, INT32_MAX, )
DEFINE_POSITIONS(int64_t, i64, INT64_MIN, INT64_MAX, )
DEFINE_POSITIONS(uint8_t, u8, 0, UINT8_MAX, )
DEFINE_POSITIONS(uint16_t, u16, 0, UINT16_MAX, )
DEFINE_POSITIONS(uint32_t, u32, 0, UINT32_MAX, )
DEFINE_POSITIONS(uint64_t, u64, 0, UINT64_MAX, )

/* The shape that a reduction of the last axes leaves. */
SHARED int shape_reduce(const shape *s, int axes, shape *result)
{
    *result = *s;
    for (int d = s->rank - axes; d < s->rank; d++)
        if (d >= 0)
            result->size[d] = 1;
    return s->rank >= axes;
}

/* Elements along the last axes. */
SHARED int64_t columns_of(const shape *s, int axes)
{
    int64_t columns = 1;
    for (int d = s->rank - axes; d < s->rank; d++)
        columns *= s->size[d];
    return columns;
}

/* Elements along all other axes. */
SHARED int64_t rows_of(const shape *s, int axes)
{
    int64_t rows = 1;
    for (int d = 0; d < s->rank - axes; d++)
        rows *= s->size[d];
    return rows;
}

/* Whether an operand, broadcast to a shape of rows of `columns` elements, has the same element all along each row; and
 * with `each`, one of its own for each row. */
SHARED int constant_along_rows(const shape *whole, const shape *s, int64_t columns, int each)
{
    int64_t inner = 1;
    int d = whole->rank - 1;
    for (; inner < columns && d >= 0; d--) {
        int k = d - (whole->rank - s->rank);
        inner *= whole->size[d];
        if (k >= 0 && s->size[k] != 1 && whole->size[d] != 1)
            return 0;
    }
    if (inner != columns)
        return 0;
    for (; d >= 0 && each; d--) {
        int k = d - (whole->rank - s->rank);
        if ((k < 0 ? 1 : s->size[k]) != whole->size[d])
            return 0;
    }
    return 1;
}
