/* Scalar functions of the generated kernels.
 *
 * The float32 ones are branch-free polynomials, so that the compiler vectorises the loops that call them. Errors are
 * stated in units in the last place (ULP) and checked by tests against the double-precision functions of libm.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__clang__)
#define VECTORISED _Pragma("clang loop vectorize(enable) interleave(enable)")
#elif defined(__GNUC__)
#define VECTORISED _Pragma("GCC ivdep")
#else
#define VECTORISED
#endif

#define ALWAYS static inline __attribute__((always_inline, unused))

/* A fused multiply-add where the machine has one, two roundings elsewhere: exactness is not relied on. */
#if defined(__FMA__) || defined(__aarch64__)
#define MULTIPLY_ADD(a, b, c) __builtin_fmaf(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

ALWAYS float bits_to_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

ALWAYS uint32_t float_to_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* ---------------------------------------------------------------- 16-bit floats */

ALWAYS float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7fff;
    uint32_t normal = (magnitude << 13) + 0x38000000u;
    float subnormal = (float)(int32_t)magnitude * 5.9604644775390625e-8f; /* 2^-24 */
    uint32_t special = (magnitude << 13) | 0x7f800000u;
    uint32_t bits = magnitude >= 0x7c00 ? special : magnitude >= 0x400 ? normal : float_to_bits(subnormal);
    return bits_to_float(bits | sign);
}

/* Round to nearest, ties to even. */
ALWAYS uint16_t float_to_half(float x)
{
    uint32_t bits = float_to_bits(x), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    uint32_t normal = (magnitude - 0x38000000u + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    /* adding 0.5 puts the unit of a subnormal half (2^-24) at the last bit of the sum */
    uint32_t subnormal = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t special = magnitude > 0x7f800000u ? 0x7e00 : 0x7c00;
    uint32_t half = magnitude >= 0x47800000u ? special : magnitude >= 0x38800000u ? normal : subnormal;
    return (uint16_t)(half | sign);
}

ALWAYS float bfloat_to_float(uint16_t b) { return bits_to_float((uint32_t)b << 16); }

ALWAYS uint16_t float_to_bfloat(float x)
{
    uint32_t bits = float_to_bits(x);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000u ? (bits >> 16) | 0x40 : rounded);
}

/* ---------------------------------------------------------------- float32 */

/* One, which kernels do not know: where gcc knows the bounds of a clamp, it makes several masked moves of one maximum or
 * minimum. */
extern const float UNKNOWN_ONE;
#if !defined(KERNELS_ONLY)
__attribute__((weak, visibility("hidden"))) const float UNKNOWN_ONE = 1.0f;
#endif
#define UNKNOWN(bound) ((bound) * UNKNOWN_ONE)

/* Bounds that are no NaN: a NaN in x stays. */
ALWAYS float at_least_f32(float x, float bound) { return bound > x ? bound : x; }
ALWAYS float at_most_f32(float x, float bound) { return bound < x ? bound : x; }
/* A NaN in x gives the bound. */
ALWAYS float at_least_number_f32(float x, float bound) { return x > bound ? x : bound; }

/* 1.5 * 2^23: added to a small number it leaves the nearest integer in the low bits of the sum. */
#define TO_INTEGER 12582912.0f

/* x = n ln 2 + r with |r| <= ln 2 / 2; power = 2^(n + shift). A NaN gives NaN for r. */
ALWAYS float reduced_f32(float x, float shift, float *power)
{
    float sum = MULTIPLY_ADD(x, 1.44269504f, TO_INTEGER + 127.0f + shift);
    float n = sum - (TO_INTEGER + 127.0f + shift);
    *power = bits_to_float(float_to_bits(sum) << 23);
    float r = MULTIPLY_ADD(n, -0.693359375f, x);
    return MULTIPLY_ADD(n, 2.12194440e-4f, r);
}

/* e^r for |r| <= ln 2 / 2: relative error 3e-9 before rounding. */
ALWAYS float exp_polynomial_f32(float r)
{
    float p = MULTIPLY_ADD(1.3843607e-3f, r, 8.3741955e-3f);
    p = MULTIPLY_ADD(p, r, 4.1668005e-2f);
    p = MULTIPLY_ADD(p, r, 1.6666430e-1f);
    p = MULTIPLY_ADD(p, r, 4.9999994e-1f);
    p = MULTIPLY_ADD(p, r, 1.0f);
    return MULTIPLY_ADD(p, r, 1.0f);
}

/* e^x as the square of e^(x / 2), which is neither infinite nor subnormal. Error below 3.5 ULP. */
ALWAYS float exp_f32(float x)
{
    float limited = at_most_f32(at_least_f32(x, UNKNOWN(-104.0f)), UNKNOWN(89.0f));
    float sum = MULTIPLY_ADD(limited, 0.72134752f, TO_INTEGER + 127.0f);
    float n = sum - (TO_INTEGER + 127.0f);
    float r = MULTIPLY_ADD(n, -1.38671875f, limited);
    r = MULTIPLY_ADD(n, 4.24388880e-4f, r);
    /* exp_polynomial_f32 of r / 2 */
    float p = MULTIPLY_ADD(1.3843607e-3f / 64, r, 8.3741955e-3f / 32);
    p = MULTIPLY_ADD(p, r, 4.1668005e-2f / 16);
    p = MULTIPLY_ADD(p, r, 1.6666430e-1f / 8);
    p = MULTIPLY_ADD(p, r, 4.9999994e-1f / 4);
    p = MULTIPLY_ADD(p, r, 0.5f);
    p = MULTIPLY_ADD(p, r, 1.0f);
    float root = p * bits_to_float(float_to_bits(sum) << 23);
    return root * root;
}

/* e^x for x <= 0. Error below 1.5 ULP there. */
ALWAYS float exp_down_f32(float x)
{
    float power, r = reduced_f32(at_least_f32(x, UNKNOWN(-104.0f)), 64.0f, &power);
    return exp_polynomial_f32(r) * power * 5.42101086e-20f; /* 2^-64: a subnormal is rounded once, here */
}

/* 2^64 e^x for x <= 0, what a softmax divides by its sum: never subnormal. Error below 2.5 ULP down to x = -131, where
 * it stays. */
ALWAYS float exp_scaled_f32(float x)
{
    float power, r = reduced_f32(at_least_f32(x, UNKNOWN(-131.0f)), 64.0f, &power);
    float p = MULTIPLY_ADD(8.2902700e-3f, r, 4.1898160e-2f);
    p = MULTIPLY_ADD(p, r, 1.6667638e-1f);
    p = MULTIPLY_ADD(p, r, 4.9999148e-1f);
    p = MULTIPLY_ADD(p, r, 9.9999971e-1f);
    return MULTIPLY_ADD(p, r, 1.0f) * power;
}

/* e^x - 1 for -87 <= x <= 87, with a small relative error near zero too. */
ALWAYS float exp_minus_one_f32(float x)
{
    float power, r = reduced_f32(x, 0.0f, &power);
    float p = MULTIPLY_ADD(1.3882517e-3f, r, 8.3665475e-3f);
    p = MULTIPLY_ADD(p, r, 4.1667201e-2f);
    p = MULTIPLY_ADD(p, r, 1.6666543e-1f);
    p = MULTIPLY_ADD(p, r, 4.9999997e-1f);
    p = MULTIPLY_ADD(p * r, r, r);
    return MULTIPLY_ADD(p, power, power - 1.0f);
}

/* Natural logarithm. Error below 1 ULP. */
ALWAYS float log_f32(float x)
{
    float scaled = x < FLT_MIN ? x * 8388608.0f : x; /* subnormals times 2^23 */
    uint32_t bits = float_to_bits(scaled) - 0x3f3504f3u; /* from sqrt(1/2) */
    int32_t e = (int32_t)bits >> 23;
    float m = bits_to_float((bits & 0x007fffff) + 0x3f3504f3u);
    float n = (float)e - (x < FLT_MIN ? 23.0f : 0.0f);
    float r = m - 1.0f, z = r * r;
    float p = 7.0376836292e-2f;
    p = MULTIPLY_ADD(p, r, -1.1514610310e-1f);
    p = MULTIPLY_ADD(p, r, 1.1676998740e-1f);
    p = MULTIPLY_ADD(p, r, -1.2420140846e-1f);
    p = MULTIPLY_ADD(p, r, 1.4249322787e-1f);
    p = MULTIPLY_ADD(p, r, -1.6668057665e-1f);
    p = MULTIPLY_ADD(p, r, 2.0000714765e-1f);
    p = MULTIPLY_ADD(p, r, -2.4999993993e-1f);
    p = MULTIPLY_ADD(p, r, 3.3333331174e-1f);
    float y = p * r * z;
    y = MULTIPLY_ADD(n, -2.12194440e-4f, y);
    y = MULTIPLY_ADD(z, -0.5f, y);
    y = MULTIPLY_ADD(n, 0.693359375f, r + y);
    y = x > FLT_MAX ? x : y;
    y = x == 0.0f ? -INFINITY : y;
    return x >= 0.0f ? y : NAN;
}

/* log(1 + x) for x >= 0, as softplus needs it. */
ALWAYS float log_one_plus_f32(float x)
{
    float sum = 1.0f + x, lost = (sum - 1.0f) - x;
    float y = log_f32(sum) - lost / sum;
    return x > FLT_MAX ? x : y;
}

/* x^(-3/4), in place of two roots and a division: an eighth from the bits of x, then a cubic and a linear step by x^3 y^4,
 * which is 1 for the result y. Error below 3.5 ULP. */
ALWAYS float inverse_three_quarters_f32(float x)
{
    float scaled = x < FLT_MIN ? x * 4294967296.0f : x; /* subnormals times 2^32 */
    uint32_t bits = float_to_bits(scaled);
    float y = bits_to_float(0x6f150000u - (bits - (bits >> 2)));
    float root = scaled * y * y;
    float off = root * scaled * root;
    float q = MULTIPLY_ADD(off, -1.15606099e-1f, 5.05937219e-1f);
    q = MULTIPLY_ADD(q, off, -9.15101826e-1f);
    y *= MULTIPLY_ADD(q, off, 1.52475977f);
    root = scaled * y * y;
    y = MULTIPLY_ADD(y * 0.25f, MULTIPLY_ADD(root * scaled, -root, 1.0f), y);
    y *= x < FLT_MIN ? 16777216.0f : 1.0f;
    y = x > FLT_MAX ? 0.0f : y;
    y = x == 0.0f ? INFINITY : y;
    return x >= 0.0f ? y : NAN;
}

/* 1 / (1 + e^-x), by the exponential that does not overflow, 2^64 times too large. Error below 3 ULP. */
ALWAYS float sigmoid_f32(float x)
{
    const float one = 18446744073709551616.0f; /* 2^64 */
    float power, r = reduced_f32(at_least_f32(-fabsf(x), UNKNOWN(-104.0f)), 64.0f, &power);
    float small = exp_polynomial_f32(r) * power;
    return (x < 0.0f ? small : one) / (one + small);
}

/* Hyperbolic tangent, from e^(-2 |x|) - 1. Error below 3 ULP. */
ALWAYS float tanh_f32(float x)
{
    float e = exp_minus_one_f32(at_least_f32(-2.0f * fabsf(x), UNKNOWN(-20.0f)));
    return copysignf(e / (e + 2.0f), x);
}

/* log(1 + e^x). Error below 3 ULP. */
ALWAYS float softplus_f32(float x)
{
    float magnitude = x < 0.0f ? -x : x;
    return (x > 0.0f ? x : x != x ? x : 0.0f) + log_one_plus_f32(exp_down_f32(-magnitude));
}

/* Error function: 1 - e^q with a polynomial q in |x|, log(1 - erf) within 4e-9. Error below 3.5 ULP. */
ALWAYS float erf_f32(float x)
{
    float magnitude = at_most_f32(fabsf(x), UNKNOWN(3.93f));
    float q = MULTIPLY_ADD(9.2556547e-6f, magnitude, -1.1763558e-4f);
    q = MULTIPLY_ADD(q, magnitude, 6.3281559e-4f);
    q = MULTIPLY_ADD(q, magnitude, -1.6669864e-3f);
    q = MULTIPLY_ADD(q, magnitude, 1.6035221e-4f);
    q = MULTIPLY_ADD(q, magnitude, 1.9153090e-2f);
    q = MULTIPLY_ADD(q, magnitude, -1.0277784e-1f);
    q = MULTIPLY_ADD(q, magnitude, -6.3661939e-1f);
    q = MULTIPLY_ADD(q, magnitude, -1.1283792f);
    return copysignf(exp_minus_one_f32(q * magnitude), x);
}

/* 2^k * 2/pi less a multiple of four, for k from 0 to 104 (and an end for what is no number): the leading 29 bits, and the
 * next 53. An integer of 24 bits times them is x / (pi/2) of a float x, less whole turns: the first product is exact. */
static const double QUARTERS_HIGH[106] = {
    0x1.45f306dp-1, 0x1.45f306dp+0, 0x1.45f306dp+1, 0x1.17cc1b7p+0, 0x1.17cc1b7p+1, 0x1.7cc1b72p-2, 0x1.7cc1b72p-1,
    0x1.7cc1b72p+0, 0x1.7cc1b72p+1, 0x1.f306dc9p+0, 0x1.f306dc9p+1, 0x1.e60db93p+1, 0x1.cc1b727p+1, 0x1.9836e4ep+1,
    0x1.306dc9cp+1, 0x1.836e4e4p-1, 0x1.836e4e4p+0, 0x1.836e4e4p+1, 0x1.06dc9c8p+1, 0x1.b72722p-4, 0x1.b72722p-3, 0x1.b72722p-2,
    0x1.b72722p-1, 0x1.b72722p+0, 0x1.b72722p+1, 0x1.6e4e441p+1, 0x1.b939105p+0, 0x1.b939105p+1, 0x1.727220ap+1, 0x1.c9c882ap+0,
    0x1.c9c882ap+1, 0x1.9391054p+1, 0x1.27220a9p+1, 0x1.391054ap-1, 0x1.391054ap+0, 0x1.391054ap+1, 0x1.c882a53p-1,
    0x1.c882a53p+0, 0x1.c882a53p+1, 0x1.91054a7p+1, 0x1.220a94fp+1, 0x1.1054a7fp-1, 0x1.1054a7fp+0, 0x1.1054a7fp+1,
    0x1.054a7fp-2, 0x1.054a7fp-1, 0x1.054a7fp+0, 0x1.054a7fp+1, 0x1.529fc27p-4, 0x1.529fc27p-3, 0x1.529fc27p-2, 0x1.529fc27p-1,
    0x1.529fc27p+0, 0x1.529fc27p+1, 0x1.4a7f09dp+0, 0x1.4a7f09dp+1, 0x1.29fc275p+0, 0x1.29fc275p+1, 0x1.4fe13abp-1,
    0x1.4fe13abp+0, 0x1.4fe13abp+1, 0x1.3f84eafp+0, 0x1.3f84eafp+1, 0x1.fc2757dp-1, 0x1.fc2757dp+0, 0x1.fc2757dp+1,
    0x1.f84eafap+1, 0x1.f09d5f4p+1, 0x1.e13abe8p+1, 0x1.c2757d1p+1, 0x1.84eafa3p+1, 0x1.09d5f47p+1, 0x1.3abe8fap-3,
    0x1.3abe8fap-2, 0x1.3abe8fap-1, 0x1.3abe8fap+0, 0x1.3abe8fap+1, 0x1.d5f47d4p-1, 0x1.d5f47d4p+0, 0x1.d5f47d4p+1,
    0x1.abe8fa9p+1, 0x1.57d1f53p+1, 0x1.5f47d4dp+0, 0x1.5f47d4dp+1, 0x1.7d1f534p+0, 0x1.7d1f534p+1, 0x1.f47d4d3p+0,
    0x1.f47d4d3p+1, 0x1.e8fa9a6p+1, 0x1.d1f534dp+1, 0x1.a3ea69bp+1, 0x1.47d4d37p+1, 0x1.1f534ddp+0, 0x1.1f534ddp+1,
    0x1.f534ddcp-2, 0x1.f534ddcp-1, 0x1.f534ddcp+0, 0x1.f534ddcp+1, 0x1.ea69bb8p+1, 0x1.d4d377p+1, 0x1.a9a6eep+1, 0x1.534ddcp+1,
    0x1.4d37703p+0, 0x1.4d37703p+1, 0x1.34ddc0dp+0, 0x0p+0};
static const double QUARTERS_LOW[106] = {
    0x1.9391054a7f09dp-30, 0x1.9391054a7f09dp-29, 0x1.9391054a7f09dp-28, 0x1.391054a7f09d6p-31, 0x1.391054a7f09d6p-30,
    0x1.c882a53f84ebp-32, 0x1.c882a53f84ebp-31, 0x1.c882a53f84ebp-30, 0x1.c882a53f84ebp-29, 0x1.91054a7f09d5fp-29,
    0x1.91054a7f09d5fp-28, 0x1.220a94fe13abfp-28, 0x1.1054a7f09d5f4p-30, 0x1.1054a7f09d5f4p-29, 0x1.1054a7f09d5f4p-28,
    0x1.054a7f09d5f48p-31, 0x1.054a7f09d5f48p-30, 0x1.054a7f09d5f48p-29, 0x1.054a7f09d5f48p-28, 0x1.529fc2757d1f5p-33,
    0x1.529fc2757d1f5p-32, 0x1.529fc2757d1f5p-31, 0x1.529fc2757d1f5p-30, 0x1.529fc2757d1f5p-29, 0x1.529fc2757d1f5p-28,
    0x1.4a7f09d5f47d5p-29, 0x1.29fc2757d1f53p-30, 0x1.29fc2757d1f53p-29, 0x1.29fc2757d1f53p-28, 0x1.4fe13abe8fa9ap-30,
    0x1.4fe13abe8fa9ap-29, 0x1.4fe13abe8fa9ap-28, 0x1.3f84eafa3ea6ap-29, 0x1.fc2757d1f534ep-31, 0x1.fc2757d1f534ep-30,
    0x1.fc2757d1f534ep-29, 0x1.f09d5f47d4d37p-30, 0x1.f09d5f47d4d37p-29, 0x1.f09d5f47d4d37p-28, 0x1.e13abe8fa9a6fp-28,
    0x1.c2757d1f534dep-28, 0x1.3abe8fa9a6eep-34, 0x1.3abe8fa9a6eep-33, 0x1.3abe8fa9a6eep-32, 0x1.3abe8fa9a6eep-31,
    0x1.3abe8fa9a6eep-30, 0x1.3abe8fa9a6eep-29, 0x1.3abe8fa9a6eep-28, 0x1.5f47d4d377037p-34, 0x1.5f47d4d377037p-33,
    0x1.5f47d4d377037p-32, 0x1.5f47d4d377037p-31, 0x1.5f47d4d377037p-30, 0x1.5f47d4d377037p-29, 0x1.7d1f534ddc0dbp-30,
    0x1.7d1f534ddc0dbp-29, 0x1.f47d4d377036ep-30, 0x1.f47d4d377036ep-29, 0x1.d1f534ddc0db6p-30, 0x1.d1f534ddc0db6p-29,
    0x1.d1f534ddc0db6p-28, 0x1.47d4d377036d9p-29, 0x1.47d4d377036d9p-28, 0x1.f534ddc0db629p-33, 0x1.f534ddc0db629p-32,
    0x1.f534ddc0db629p-31, 0x1.f534ddc0db629p-30, 0x1.f534ddc0db629p-29, 0x1.f534ddc0db629p-28, 0x1.ea69bb81b6c53p-28,
    0x1.d4d377036d8a5p-28, 0x1.a9a6ee06db14bp-28, 0x1.34ddc0db6295ap-32, 0x1.34ddc0db6295ap-31, 0x1.34ddc0db6295ap-30,
    0x1.34ddc0db6295ap-29, 0x1.34ddc0db6295ap-28, 0x1.a6ee06db14acdp-30, 0x1.a6ee06db14acdp-29, 0x1.a6ee06db14acdp-28,
    0x1.4ddc0db629599p-28, 0x1.377036d8a5665p-29, 0x1.bb81b6c52b328p-31, 0x1.bb81b6c52b328p-30, 0x1.bb81b6c52b328p-29,
    0x1.bb81b6c52b328p-28, 0x1.dc0db6295993cp-30, 0x1.dc0db6295993cp-29, 0x1.dc0db6295993cp-28, 0x1.b81b6c52b3279p-28,
    0x1.7036d8a5664f1p-28, 0x1.c0db6295993c4p-29, 0x1.81b6c52b32788p-29, 0x1.81b6c52b32788p-28, 0x1.b6c52b3278872p-35,
    0x1.b6c52b3278872p-34, 0x1.b6c52b3278872p-33, 0x1.b6c52b3278872p-32, 0x1.b6c52b3278872p-31, 0x1.b6c52b3278872p-30,
    0x1.b6c52b3278872p-29, 0x1.b6c52b3278872p-28, 0x1.b6295993c439p-30, 0x1.b6295993c439p-29, 0x1.6c52b32788721p-29, 0x0p+0};

/* x = quarter * pi/2 + r with |r| <= pi/4, for every finite x; quarter counts modulo 4. */
ALWAYS float within_a_quarter_f32(float x, int32_t *quarter)
{
    int32_t above = (int32_t)(float_to_bits(x) >> 23 & 0xff) - 150; /* beyond 2^23 floats are integers times 2^above */
    int64_t k = above > 0 ? above : 0;
    double m = (double)bits_to_float(float_to_bits(x) - ((uint32_t)k << 23));
    double high = m * QUARTERS_HIGH[k], low = m * QUARTERS_LOW[k];
    double whole = (high + low + 6755399441055744.0) - 6755399441055744.0; /* 1.5 * 2^52: rounds to an integer */
    *quarter = (int32_t)whole;
    return (float)(((high - whole) + low) * 1.5707963267948966);
}

/* Sine of quarter * pi/2 + r. */
ALWAYS float sine_from_f32(float r, int32_t quarter)
{
    float z = r * r;
    float s = MULTIPLY_ADD(-1.9515282e-4f, z, 8.3321603e-3f);
    s = MULTIPLY_ADD(s, z, -1.6666655e-1f);
    s = r * MULTIPLY_ADD(s, z, 1.0f);
    float c = MULTIPLY_ADD(2.4433157e-5f, z, -1.3887316e-3f);
    c = MULTIPLY_ADD(c, z, 4.1666646e-2f);
    c = MULTIPLY_ADD(c * z, z, MULTIPLY_ADD(z, -0.5f, 1.0f));
    float y = quarter & 1 ? c : s;
    return quarter & 2 ? -y : y;
}

/* Sine. Error below 2.5 ULP. */
ALWAYS float sin_f32(float x)
{
    int32_t quarter;
    float r = within_a_quarter_f32(x, &quarter);
    float y = sine_from_f32(r, quarter);
    return fabsf(x) <= FLT_MAX ? y : NAN;
}

/* Cosine. Error below 2.5 ULP. */
ALWAYS float cos_f32(float x)
{
    int32_t quarter;
    float r = within_a_quarter_f32(x, &quarter);
    float y = sine_from_f32(r, quarter + 1);
    return fabsf(x) <= FLT_MAX ? y : NAN;
}

/* Integer division, remainder and power without undefined cases: by zero gives 0, the smallest by -1 wraps. */
#define DEFINE_SIGNED_DIVISION(type, name)                                                                             \
    ALWAYS type divide_##name(type a, type b)                                                                          \
    {                                                                                                                  \
        type safe = b == 0 || b == -1 ? 1 : b;                                                                         \
        type quotient = (type)(a / safe);                                                                              \
        return b == 0 ? 0 : b == -1 ? (type)(0 - (uint64_t)a) : quotient;                                              \
    }                                                                                                                  \
    ALWAYS type remainder_##name(type a, type b) /* sign of the dividend */                                            \
    {                                                                                                                  \
        return b == 0 || b == -1 ? 0 : (type)(a % b);                                                                  \
    }                                                                                                                  \
    ALWAYS type modulo_##name(type a, type b) /* sign of the divisor */                                                \
    {                                                                                                                  \
        type r = remainder_##name(a, b);                                                                               \
        return r != 0 && (r < 0) != (b < 0) ? (type)(r + b) : r;                                                       \
    }                                                                                                                  \
    ALWAYS type power_##name(type a, type b)                                                                           \
    {                                                                                                                  \
        if (b < 0)                                                                                                     \
            return a == 1 ? 1 : a == -1 ? (b % 2 == 0 ? 1 : -1) : 0;                                                   \
        return (type)power_u64((uint64_t)a, (uint64_t)b);                                                              \
    }
#define DEFINE_UNSIGNED_DIVISION(type, name)                                                                           \
    ALWAYS type divide_##name(type a, type b) { return b == 0 ? 0 : (type)(a / b); }                                   \
    ALWAYS type remainder_##name(type a, type b) { return b == 0 ? 0 : (type)(a % b); }                                \
    ALWAYS type modulo_##name(type a, type b) { return remainder_##name(a, b); }
#define DEFINE_UNSIGNED_POWER(type, name)                                                                              \
    ALWAYS type power_##name(type a, type b) { return (type)power_u64(a, b); }

ALWAYS uint64_t power_u64(uint64_t x, uint64_t exponent) /* modulo 2^64 */
{
    uint64_t y = 1;
    for (; exponent; exponent >>= 1, x *= x)
        if (exponent & 1)
            y *= x;
    return y;
}
DEFINE_SIGNED_DIVISION(int8_t, i8)
DEFINE_SIGNED_DIVISION(int16_t, i16)
DEFINE_SIGNED_DIVISION(int32_t, i32)
DEFINE_SIGNED_DIVISION(int64_t, i64)
DEFINE_UNSIGNED_DIVISION(uint8_t, u8)
DEFINE_UNSIGNED_DIVISION(uint16_t, u16)
DEFINE_UNSIGNED_DIVISION(uint32_t, u32)
DEFINE_UNSIGNED_DIVISION(uint64_t, u64)
DEFINE_UNSIGNED_POWER(uint8_t, u8)
DEFINE_UNSIGNED_POWER(uint16_t, u16)
DEFINE_UNSIGNED_POWER(uint32_t, u32)

/* Float to integer: what does not fit becomes the smallest value, as x86 does it; narrower types keep the low bits. */
ALWAYS int32_t to_i32(double x) { return x > -2147483649.0 && x < 2147483648.0 ? (int32_t)x : INT32_MIN; }
ALWAYS int32_t float_to_i32(float x) { return x >= -2147483648.0f && x < 2147483648.0f ? (int32_t)x : INT32_MIN; }
ALWAYS int64_t to_i64(double x)
{
    return x >= -9223372036854775808.0 && x < 9223372036854775808.0 ? (int64_t)x : INT64_MIN;
}
ALWAYS uint64_t to_u64(double x)
{
    return x >= 9223372036854775808.0 && x < 18446744073709551616.0
               ? (uint64_t)(x - 9223372036854775808.0) + (UINT64_C(1) << 63)
               : (uint64_t)to_i64(x);
}

/* Bounds; on floats a NaN operand gives NaN. Two selections in a row: gcc makes one instruction of the first. */
#define DEFINE_BOUNDS(type, name)                                                                                      \
    ALWAYS type maximum_##name(type a, type b)                                                                         \
    {                                                                                                                  \
        type bound = b > a ? b : a;                                                                                    \
        return b != b ? b : bound;                                                                                     \
    }                                                                                                                  \
    ALWAYS type minimum_##name(type a, type b)                                                                         \
    {                                                                                                                  \
        type bound = b < a ? b : a;                                                                                    \
        return b != b ? b : bound;                                                                                     \
    }
DEFINE_BOUNDS(float, f32)
DEFINE_BOUNDS(double, f64)
DEFINE_BOUNDS(int8_t, i8)
DEFINE_BOUNDS(int16_t, i16)
DEFINE_BOUNDS(int32_t, i32)
DEFINE_BOUNDS(int64_t, i64)
DEFINE_BOUNDS(uint8_t, u8)
DEFINE_BOUNDS(uint16_t, u16)
DEFINE_BOUNDS(uint32_t, u32)
DEFINE_BOUNDS(uint64_t, u64)
