/* Instruction sets. A library holds its kernels once or several times, each compiled for another level of instruction
 * sets; the first level that the processor has is used. */
typedef struct {
    const char *name;
    unsigned leaf, subleaf;
    int word, bit;  /* of eax, ebx, ecx, edx; see the description of CPUID in the Intel manual, volume 2A */
    unsigned saved; /* bits of XCR0: the registers that the operating system must save */
} instruction_set;

#ifndef LEVELS
#define LEVELS(X) X(own)
#define LEVEL(name) name##_own
#endif
