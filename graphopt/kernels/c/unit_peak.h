/* What the matrix unit does at best with the accuracy of float32: a kernel that multiplies 2 x 2 tiles of parts (see
 * matrix_unit.h) over and over, with as many loads of parts between the products as there. It splits nothing and stores no sums.
 * The right parts are the same all the time, the left ones those that lie one behind the other in the operand: where that is no
 * longer than one set of parts, all come from the first-level cache. `graphopt calibrate` times it. The result has the operand's
 * shape; only its first element is written. */
#include <immintrin.h>
#include <sys/syscall.h>
extern long syscall(long number, ...);

enum { PEAK_ROUNDS = 256, PEAK_TILE = UNIT_ROWS * UNIT_DEPTH * 2, PEAK_SET = 2 * PARTS * PEAK_TILE };

#define PEAK_SETTLED() __asm__ volatile("" ::: "memory")
#define PEAK_LEFT(part)                                              \
    do {                                                             \
        _tile_loadd(4, left + (part) * PEAK_TILE, 64);               \
        _tile_loadd(5, left + (PARTS + (part)) * PEAK_TILE, 64); \
    } while (0)
#define PEAK_RIGHT(part)                                              \
    do {                                                              \
        _tile_loadd(6, right + (part) * PEAK_TILE, 64);               \
        _tile_loadd(7, right + (PARTS + (part)) * PEAK_TILE, 64); \
    } while (0)
#define PEAK_PRODUCTS()          \
    do {                         \
        _tile_dpbf16ps(0, 4, 6); \
        _tile_dpbf16ps(1, 4, 7); \
        _tile_dpbf16ps(2, 5, 6); \
        _tile_dpbf16ps(3, 5, 7); \
    } while (0)

static __attribute__((noinline, target("amx-tile,amx-bf16"))) void UnitPeak_sum(const unsigned char *all, int64_t sets, float *sums)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } whole = {.palette = 1};
    for (int k = 0; k < 8; k++) {
        whole.row_bytes[k] = 64;
        whole.rows[k] = 16;
    }
    PEAK_SETTLED();
    _tile_loadconfig(&whole);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    const unsigned char *right = all;
    for (int64_t round = 0, rounds = sets > PEAK_ROUNDS ? sets : PEAK_ROUNDS; round < rounds; round++) {
        const unsigned char *left = all + round % sets * PEAK_SET;
        PEAK_LEFT(0);
        PEAK_RIGHT(2);
        PEAK_PRODUCTS();
        PEAK_RIGHT(1);
        PEAK_PRODUCTS();
        PEAK_RIGHT(0);
        PEAK_PRODUCTS();
        PEAK_LEFT(2);
        PEAK_PRODUCTS();
        PEAK_LEFT(1);
        PEAK_PRODUCTS();
        PEAK_RIGHT(1);
        PEAK_PRODUCTS();
        PEAK_SETTLED();
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums, 64);
    _tile_stored(2, sums, 64);
    _tile_stored(3, sums, 64);
    _tile_release();
    PEAK_SETTLED();
}

static const char *UnitPeak_run(const plan *p, const step *s, int64_t begin, int64_t end, void *const *tensors)
{
    float sums[16 * 16] __attribute__((aligned(64)));
    (void)begin, (void)end;
    int64_t sets = (elements(&p->input_shape[0]) * (int64_t)sizeof(float) - ALIGNMENT) / PEAK_SET;
    if (sets < 1)
        return "the operand holds no set of parts";
    (void)s;
    if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) != 0)
        return "the operating system does not let this process use the matrix unit";
    UnitPeak_sum(aligned_after(tensors[0], 0), sets, sums); /* a tile's rows are whole cache lines */
    memcpy(tensors[1], sums, sizeof(float));
    return NULL;
}

static void UnitPeak_release(void *state)
{
    (void)state;
}

static const char *UnitPeak_make_plan(plan *p, const shape *in, const int64_t *const *value)
{
    (void)value;
    p->output_shape[0] = in[0];
    return add_step(p, (step){.run = UnitPeak_run, .release = UnitPeak_release, .units = 1, .work = 1});
}

extern const kernel UnitPeak_kernel;
const kernel UnitPeak_kernel = {"UnitPeak",           1, 1, (const int[]){1}, (const int[]){1}, (const unsigned char[]){0},
                                (const int[]){-1}, UnitPeak_make_plan};
