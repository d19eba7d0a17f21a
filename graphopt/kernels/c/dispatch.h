/* The entry point of the library: chooses a level. Compiled for the plainest processor. */
#if defined(__x86_64__)
#include <cpuid.h>

static unsigned saved_registers(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a;
}

static int has(const instruction_set *set)
{
    unsigned word[4] = {0, 0, 0, 0};
    return __get_cpuid_count(set->leaf, set->subleaf, &word[0], &word[1], &word[2], &word[3])
           && (word[set->word] >> set->bit & 1) && (!set->saved || (saved_registers() & set->saved) == set->saved);
}
#else
static int has(const instruction_set *set) { return (void)set, 1; }
#endif

#define DECLARE(level)                                                                                                 \
    extern const instruction_set NEEDED_##level[];                                                                     \
    OrtStatus *register_operators_##level(OrtSessionOptions *options, const OrtApiBase *base);
LEVELS(DECLARE)

static const struct {
    const instruction_set *needed; /* ends with one without a name */
    OrtStatus *(*register_operators)(OrtSessionOptions *, const OrtApiBase *);
} CHOICES[] = {
#define CHOICE(level) {NEEDED_##level, register_operators_##level},
    LEVELS(CHOICE)
};

/* The entry point that SessionOptions.register_custom_ops_library looks for. */
GO_ORT_EXPORT OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base)
{
    const OrtApi *oldest = base->GetApi(1);
    if (go_runtime_api_version(base) < (int)GRAPHOPT_ORT_API_VERSION)
        return go_status(oldest, GO_ORT_NOT_IMPLEMENTED, "graphopt kernels need onnxruntime 1.18 or newer");
    char message[96];
    for (size_t k = 0; k < sizeof CHOICES / sizeof *CHOICES; k++) {
        const instruction_set *set = CHOICES[k].needed;
        while (set->name && has(set))
            set++;
        if (!set->name)
            return CHOICES[k].register_operators(options, base);
        snprintf(message, sizeof message, "this kernel library was compiled for a processor with %s", set->name);
    }
    return go_status(oldest, GO_ORT_NOT_IMPLEMENTED, message);
}
