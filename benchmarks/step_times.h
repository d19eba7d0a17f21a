/* How long the steps of kernels take, for benchmarks/limits.py: included in a library's C before its library.h. When the library
 * is unloaded, it writes a line of JSON for each step of each plan to the file that GRAPHOPT_STEP_TIMES names. */
#include <time.h>

typedef struct {
    const plan *of;
    const step *what;
    int number;
    int64_t calls, run; /* of the step; runs so far in `seconds` */
    double now;         /* of this run so far */
    float seconds[4096];
} timed_step;

static timed_step *timed_steps;
static int timed_count;
enum { MOST_TIMED = 1024, KEPT_TIMES = 4096 };

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
