/* What the compiler was allowed to use must be there at run time: checked before any kernel is registered. */
#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>

typedef struct {
    const char *name;
    unsigned leaf, subleaf;
    int word, bit; /* of eax, ebx, ecx, edx; see the description of CPUID in the Intel manual, volume 2A */
} instruction_set;

static const instruction_set COMPILED_FOR[] = {
    {"SSE2", 1, 0, 3, 26},
#ifdef __FMA__
    {"FMA", 1, 0, 2, 12},
#endif
#ifdef __F16C__
    {"F16C", 1, 0, 2, 29},
#endif
#ifdef __AVX2__
    {"AVX2", 7, 0, 1, 5},
#endif
#ifdef __BMI2__
    {"BMI2", 7, 0, 1, 8},
#endif
#ifdef __AVX512F__
    {"AVX512F", 7, 0, 1, 16},
#endif
#ifdef __AVX512DQ__
    {"AVX512DQ", 7, 0, 1, 17},
#endif
#ifdef __AVX512IFMA__
    {"AVX512IFMA", 7, 0, 1, 21},
#endif
#ifdef __AVX512BW__
    {"AVX512BW", 7, 0, 1, 30},
#endif
#ifdef __AVX512VL__
    {"AVX512VL", 7, 0, 1, 31},
#endif
#ifdef __AVX512VBMI__
    {"AVX512VBMI", 7, 0, 2, 1},
#endif
#ifdef __AVX512VBMI2__
    {"AVX512VBMI2", 7, 0, 2, 6},
#endif
#ifdef __AVX512VNNI__
    {"AVX512VNNI", 7, 0, 2, 11},
#endif
#ifdef __AVX512FP16__
    {"AVX512FP16", 7, 0, 3, 23},
#endif
#ifdef __AVX512BF16__
    {"AVX512BF16", 7, 1, 0, 5},
#endif
};

/* Whether the operating system saves the registers: bits 1 and 2 of XCR0 for AVX, 5 to 7 also for AVX-512. */
static int registers_are_saved(void)
{
#if defined(__AVX__)
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
#if defined(__AVX512F__)
    return (a & 0xe6) == 0xe6;
#else
    return (a & 6) == 6;
#endif
#else
    return 1;
#endif
}

static const char *missing_instructions(void)
{
    static char message[96];
    const char *missing = registers_are_saved() ? NULL : "AVX";
    for (size_t k = 0; k < sizeof COMPILED_FOR / sizeof *COMPILED_FOR && !missing; k++) {
        unsigned word[4] = {0, 0, 0, 0};
        const instruction_set *set = &COMPILED_FOR[k];
        if (!__get_cpuid_count(set->leaf, set->subleaf, &word[0], &word[1], &word[2], &word[3])
            || !(word[set->word] >> set->bit & 1))
            missing = set->name;
    }
    if (!missing)
        return NULL;
    snprintf(message, sizeof message, "this kernel library was compiled for a processor with %s", missing);
    return message;
}
#else
static const char *missing_instructions(void) { return NULL; }
#endif
