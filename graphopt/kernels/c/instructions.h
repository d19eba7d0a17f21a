/* What the compiler was allowed to use must be there at run time: checked before any kernel is registered. */
static const char *missing_instructions(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
#if defined(__AVX512F__)
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512vl")
        || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq"))
        return "this kernel library was compiled for a processor with AVX-512";
#endif
#if defined(__AVX2__)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return "this kernel library was compiled for a processor with AVX2 and FMA";
#endif
#endif
    return NULL;
}
