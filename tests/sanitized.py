"""Runs kernels of random patterns from a library built with sanitizers, in a process of its own.

``python -m tests.sanitized LIBRARY FIRST COUNT SHAPES [contraction]`` needs the address sanitizer preloaded. Inputs and
outputs are copied to blocks of exactly their size, so that every access beyond them is seen.
"""

import ctypes
import sys
from collections.abc import Mapping

import numpy as np

from tests.contraction_patterns import ContractionPattern, random_contraction
from tests.kernel_checks import Array, Case, assert_same
from tests.kernel_patterns import Pattern, random_pattern

DRIVER = """
static void *exact_copy(const void *from, size_t bytes)
{
    void *to = malloc(bytes);
    memcpy(to, from, bytes);
    return to;
}

/* Fills memory that a run has to write: what it leaves out differs from run to run. Aligned as temporaries are. */
static void *fresh(int64_t bytes, int run)
{
    void *memory = take_aligned(bytes);
    return memory ? memset(memory, run ? 0x5a : 0xa5, (size_t)bytes) : NULL;
}

/* Runs all steps, so many units of work at a time; backwards: the last units of the last step of each stage first. */
static const char *run_steps(plan *p, int backwards, int64_t chunk, void *const *tensors)
{
    const char *error = NULL;
    for (int first = 0, last; first < p->steps && !error; first = last) {
        for (last = first; last < p->steps && p->step[last].stage == p->step[first].stage;)
            last++;
        for (int n = first; n < last && !error; n++) {
            const step *s = &p->step[backwards ? last - 1 - (n - first) : n];
            int64_t chunks = (s->units + chunk - 1) / chunk;
            for (int64_t c = 0; c < chunks && !error; c++) {
                int64_t begin = (backwards ? chunks - 1 - c : c) * chunk;
                error = s->run(p, s, begin, begin + chunk < s->units ? begin + chunk : s->units, tensors);
            }
        }
    }
    return error;
}

/* One run; results: what the first run made, which another one has to make again. */
static const char *run_once(const kernel *k, plan *p, int run, int64_t chunk, void **tensors, void **results,
                            const int64_t *out_bytes)
{
    for (int o = 0; o < k->outputs; o++)
        tensors[k->inputs + o] = fresh(out_bytes[o], run);
    /* first each temporary in a block of its own, then all where runs have them: none is overwritten while used */
    unsigned char *shared = run && !p->streams ? fresh(p->temporary_bytes, run) : NULL;
    for (int i = 0; i < p->temporaries; i++)
        tensors[k->inputs + k->outputs + i] = shared ? shared + p->temporary[i].at : fresh(p->temporary[i].bytes, run);
    const char *error = p->streams ? run_stream(k, p, tensors) : run_steps(p, run, chunk, tensors);
    for (int o = 0; o < k->outputs && !error; o++)
        if (!run)
            memcpy(results[o], tensors[k->inputs + o], (size_t)out_bytes[o]);
        else if (memcmp(results[o], tensors[k->inputs + o], (size_t)out_bytes[o]))
            error = "results depend on the order of units of work";
    for (int i = 0; i < k->outputs + (shared ? 0 : p->temporaries); i++)
        free(tensors[k->inputs + i]);
    free(shared);
    return error;
}

/* constant: inputs that never change; NULL where all may. */
const char *sanitized_run(int index, const int64_t *shapes, const void **data, const int64_t *in_bytes,
                          const unsigned char *constant, void **results, const int64_t *out_bytes, int64_t chunk);
__attribute__((visibility("default"))) const char *sanitized_run(int index, const int64_t *shapes, const void **data,
                                                                 const int64_t *in_bytes,
                                                                 const unsigned char *constant, void **results,
                                                                 const int64_t *out_bytes, int64_t chunk)
{
    const kernel *k = KERNELS[index];
    shape in[MAX_INPUTS];
    const void *inputs[MAX_INPUTS], *constants[MAX_INPUTS];
    void *tensors[MAX_TENSORS];
    kept *made = NULL;
    for (int i = 0; i < k->inputs; i++) {
        in[i].rank = (int)*shapes++;
        for (int d = 0; d < in[i].rank; d++)
            in[i].size[d] = *shapes++;
        tensors[i] = exact_copy(data[i], (size_t)in_bytes[i]);
        inputs[i] = tensors[i];
        constants[i] = constant && constant[i] ? inputs[i] : NULL;
    }
    plan *p = new_plan(k, in, inputs, constant ? constants : NULL, &made);
    const char *error = p->error;
    for (int o = 0; o < k->outputs && !error; o++)
        if (elements(&p->output_shape[o]) * (int64_t)element_bytes(k->output_types[o]) != out_bytes[o])
            error = "an output of another size than expected";
    for (int run = 0; run < 2 && !error; run++)
        error = run_once(k, p, run, run ? chunk + 1 : chunk, tensors, results, out_bytes);
    if (!plan_fits(p, k, in, data))
        error = "the plan does not fit its own inputs";
    free_plan(p);
    for (kept *next; made; made = next) {
        next = made->next;
        unshare(made->memory);
        free(made);
    }
    for (int i = 0; i < k->inputs; i++)
        free((void *)inputs[i]);
    return error;
}
"""


def cases(first: int, count: int) -> list[tuple[Pattern, Case]]:
    """The patterns of some seeds."""
    patterns = [random_pattern(f"pattern{seed}", seed) for seed in range(first, first + count)]
    return [(pattern, pattern.case(0, shaped=number % 2 == 0)) for number, pattern in enumerate(patterns)]


def _pointers(arrays: list[Array]) -> object:
    return (ctypes.c_void_p * max(1, len(arrays)))(*(array.ctypes.data for array in arrays))


def _run(
    library: ctypes.CDLL, index: int, feeds: Mapping[str, Array], expected: list[Array], chunk: int
) -> list[Array]:
    """The outputs of a kernel, which have the shapes and types of those that are expected."""
    inputs = [np.ascontiguousarray(value).reshape(value.shape) for value in feeds.values()]
    outputs = [np.empty(value.shape, value.dtype) for value in expected]
    flat = [size for value in inputs for size in (value.ndim, *value.shape)]
    error = library.sanitized_run(
        ctypes.c_int(index),
        (ctypes.c_int64 * len(flat))(*flat),
        _pointers(inputs),
        (ctypes.c_int64 * len(inputs))(*(value.nbytes for value in inputs)),
        None,
        _pointers(outputs),
        (ctypes.c_int64 * len(outputs))(*(value.nbytes for value in outputs)),
        ctypes.c_int64(chunk),
    )
    assert error is None, (index, error)
    return outputs


def contractions(first: int, count: int) -> list[tuple[ContractionPattern, Case]]:
    """The patterns around matrix products of some seeds."""
    patterns = [random_contraction(seed) for seed in range(first, first + count)]
    return [(pattern, pattern.case(shaped=number % 3 != 0)) for number, pattern in enumerate(patterns)]


def main() -> None:
    """Every kernel at several shapes; results must be right too."""
    library = ctypes.CDLL(sys.argv[1])
    library.sanitized_run.restype = ctypes.c_char_p
    first, count, shapes = (int(word) for word in sys.argv[2:5])
    if sys.argv[5:] == ["contraction"]:
        for index, (products, case) in enumerate(contractions(first, count)):
            for seed in range(shapes):
                feeds = products.feeds(seed)
                values = case.expected(feeds)
                found = _run(library, index, feeds, [values[name] for name in case.outputs], 1 + seed)
                for name, value in zip(case.outputs, found, strict=True):
                    assert_same(value, values[name], 1e-4, 1e-4, f"{case.name} {name} seed {seed}")
        print("clean")
        return
    for index, (pattern, case) in enumerate(cases(first, count)):
        for seed in range(shapes):
            feeds, values = pattern.walk(seed, large=seed == shapes - 1)
            found = _run(library, index, feeds, [values[name] for name in case.outputs], 1 + seed)
            for name, value in zip(case.outputs, found, strict=True):
                assert_same(value, values[name], message=f"{pattern.name} {name} seed {seed}")
    print("clean")


if __name__ == "__main__":
    main()
