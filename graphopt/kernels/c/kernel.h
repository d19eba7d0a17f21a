/* What a generated kernel tells the library. */

typedef struct {
    const char *name;
    int inputs, outputs;
    const int *input_types, *output_types; /* ONNX element types */
    const unsigned char *structural;       /* inputs whose int values the plan depends on: 4 or 8 bytes an element; 0 */
    const int *overwrites;                 /* for each output the input whose storage it may take; -1 for none */
    const char *(*make_plan)(plan *p, const shape *in, const int64_t *const *value);
} kernel;

#define STEP(call)                \
    do {                          \
        verdict verdict_ = (call); \
        if (verdict_ != DONE)     \
            return verdict_;      \
    } while (0)
