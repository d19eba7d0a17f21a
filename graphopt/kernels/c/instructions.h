/* What the compiler was allowed to use at this level: asked for before any of its code runs. */
extern const instruction_set LEVEL(NEEDED)[];
const instruction_set LEVEL(NEEDED)[] = {
#if defined(__x86_64__)
    {"SSE2", 1, 0, 3, 26, 0},
#ifdef __FMA__
    {"FMA", 1, 0, 2, 12, 0x6},
#endif
#ifdef __F16C__
    {"F16C", 1, 0, 2, 29, 0x6},
#endif
#ifdef __AVX__
    {"AVX", 1, 0, 2, 28, 0x6},
#endif
#ifdef __AVX2__
    {"AVX2", 7, 0, 1, 5, 0x6},
#endif
#ifdef __BMI2__
    {"BMI2", 7, 0, 1, 8, 0},
#endif
#ifdef __AVX512F__
    {"AVX512F", 7, 0, 1, 16, 0xe6},
#endif
#ifdef __AVX512DQ__
    {"AVX512DQ", 7, 0, 1, 17, 0xe6},
#endif
#ifdef __AVX512IFMA__
    {"AVX512IFMA", 7, 0, 1, 21, 0xe6},
#endif
#ifdef __AVX512BW__
    {"AVX512BW", 7, 0, 1, 30, 0xe6},
#endif
#ifdef __AVX512VL__
    {"AVX512VL", 7, 0, 1, 31, 0xe6},
#endif
#ifdef __AVX512VBMI__
    {"AVX512VBMI", 7, 0, 2, 1, 0xe6},
#endif
#ifdef __AVX512VBMI2__
    {"AVX512VBMI2", 7, 0, 2, 6, 0xe6},
#endif
#ifdef __AVX512VNNI__
    {"AVX512VNNI", 7, 0, 2, 11, 0xe6},
#endif
#ifdef __AVX512FP16__
    {"AVX512FP16", 7, 0, 3, 23, 0xe6},
#endif
#ifdef __AVX512BF16__
    {"AVX512BF16", 7, 1, 0, 5, 0xe6},
#endif
#endif
    {NULL, 0, 0, 0, 0, 0},
};
